//! The warm targets' arithmetic (vpc-cni.md §4.4), on numbers alone.
//!
//! One departure: upstream counts a resting address as available and then has none to give; here
//! `available` never includes one.

use settings::WarmTargets;

/// What the pool has, or soon has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stock {
    /// Addresses for pods, used or not.
    pub total: u32,
    /// Free, rested, and not spoken for by a waiting pod.
    pub available: u32,
    /// Pods that wait beyond what is available.
    pub waiting: u32,
}

/// How many more addresses are wanted, `slots` being what one interface can carry.
///
/// Counting whole interfaces, the growth fills an interface whatever the number; counting
/// addresses, it is the exact amount.
pub fn short(warm: WarmTargets, slots: u32, stock: Stock) -> u32 {
    let Stock {
        total,
        available,
        waiting,
    } = stock;
    let target = if warm.by_address() {
        let free = warm.ip.saturating_sub(available);
        let floor = warm.minimum.saturating_sub(total.saturating_add(waiting));
        free.max(floor)
    } else if warm.eni == 0 {
        // Upstream's words: too low when nothing at all is available.
        u32::from(available == 0)
    } else {
        slots.saturating_mul(warm.eni).saturating_sub(available)
    };
    waiting.saturating_add(target)
}

/// How many free addresses may be given back one by one. Counting whole interfaces: none.
pub fn over(warm: WarmTargets, stock: Stock) -> u32 {
    if !warm.by_address() || stock.waiting > 0 {
        return 0;
    }
    let free = stock.available.saturating_sub(warm.ip);
    free.min(stock.total.saturating_sub(warm.minimum))
}

/// Whether an interface with `size` free addresses and no pod is one too many.
pub fn spare(warm: WarmTargets, slots: u32, stock: Stock, size: u32) -> bool {
    if stock.waiting > 0 || short(warm, slots, stock) > 0 {
        return false;
    }
    if warm.by_address() {
        return size <= over(warm, stock);
    }
    let keep = slots.saturating_mul(warm.eni);
    stock.available >= keep.saturating_add(slots) && stock.available - size >= keep.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stock(total: u32, assigned: u32, resting: u32) -> Stock {
        Stock {
            total,
            available: total - assigned - resting,
            waiting: 0,
        }
    }

    /// The documented states: an m5.large-like instance with 9 slots per interface, and t3.medium's 5.
    #[test]
    fn documented_cases() {
        let eni = |n| WarmTargets {
            eni: n,
            ip: 0,
            minimum: 0,
            prefix: 0,
        };
        let ip = |w, m| WarmTargets {
            eni: 1,
            ip: w,
            minimum: m,
            prefix: 0,
        };
        #[rustfmt::skip]
        let cases = [
            // (warm, slots, total, assigned, resting) -> (short, over)
            // upstream's unit table for WARM_IP_TARGET=5
            (ip(5, 0), 14, (0, 0, 0), (5, 0)),
            (ip(5, 0), 14, (2, 0, 0), (3, 0)),
            (ip(5, 0), 14, (5, 0, 0), (0, 0)),
            (ip(5, 0), 14, (9, 0, 0), (0, 4)),
            (ip(5, 0), 14, (9, 3, 0), (0, 1)),
            (ip(5, 0), 14, (9, 9, 0), (5, 0)),
            // WARM_IP_TARGET overrides WARM_ENI_TARGET
            (ip(1, 0), 5, (1, 0, 0), (0, 0)),
            // MINIMUM_IP_TARGET alone: a floor, and a free target of 0
            (ip(0, 10), 5, (5, 0, 0), (5, 0)),
            (ip(0, 10), 5, (10, 0, 0), (0, 0)),
            (ip(0, 10), 5, (10, 10, 0), (0, 0)),
            (ip(0, 10), 5, (15, 3, 0), (0, 5)),
            // both: the greater need, the smaller surplus
            (ip(2, 10), 5, (10, 9, 0), (1, 0)),
            (ip(2, 10), 5, (12, 9, 0), (0, 1)),
            (ip(2, 10), 5, (4, 3, 0), (6, 0)),
            (ip(2, 10), 5, (20, 3, 0), (0, 10)),
            // WARM_ENI_TARGET: one interface's worth; never too high address by address
            (eni(1), 5, (0, 0, 0), (5, 0)),
            (eni(1), 5, (5, 0, 0), (0, 0)),
            (eni(1), 5, (5, 1, 0), (1, 0)),
            (eni(1), 5, (15, 0, 0), (0, 0)),
            (eni(2), 9, (9, 0, 0), (9, 0)),
            (eni(2), 9, (18, 0, 0), (0, 0)),
            (eni(0), 5, (0, 0, 0), (1, 0)),
            (eni(0), 5, (5, 4, 0), (0, 0)),
            (eni(0), 5, (5, 5, 0), (1, 0)),
            // ours: a resting address is not available
            (eni(1), 5, (10, 5, 2), (2, 0)),
            (ip(5, 0), 5, (10, 0, 8), (3, 0)),
        ];
        for (i, (warm, slots, (total, assigned, resting), (want_short, want_over))) in
            cases.into_iter().enumerate()
        {
            let stock = stock(total, assigned, resting);
            let got = (short(warm, slots, stock), over(warm, stock));
            assert_eq!(
                got,
                (want_short, want_over),
                "case {i}: {warm:?} {slots} {stock:?}"
            );
        }
    }

    #[test]
    fn waiting_pods_come_on_top_of_every_target() {
        let warm = WarmTargets {
            eni: 0,
            ip: 2,
            minimum: 0,
            prefix: 0,
        };
        assert_eq!(
            short(
                warm,
                5,
                Stock {
                    total: 5,
                    available: 0,
                    waiting: 3
                }
            ),
            5
        );
        let none = WarmTargets {
            eni: 0,
            ip: 0,
            minimum: 4,
            prefix: 0,
        };
        assert_eq!(
            short(
                none,
                5,
                Stock {
                    total: 4,
                    available: 0,
                    waiting: 3
                }
            ),
            3
        );
    }

    #[test]
    fn an_interface_is_spare_only_when_its_loss_wakes_no_growth() {
        for eni in 0..4 {
            for ip in 0..4 {
                for minimum in 0..8 {
                    for total in 0..20 {
                        for assigned in 0..=total {
                            let warm = WarmTargets {
                                eni,
                                ip,
                                minimum,
                                prefix: 0,
                            };
                            let before = stock(total, assigned, 0);
                            for size in 0..=before.available.min(5) {
                                if spare(warm, 5, before, size) {
                                    let after = stock(total - size, assigned, 0);
                                    assert_eq!(short(warm, 5, after), 0, "{warm:?} {before:?}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
