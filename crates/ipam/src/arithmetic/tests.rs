use super::*;

fn stock(total: u32, assigned: u32, resting: u32) -> Stock {
    Stock {
        total,
        available: total - assigned - resting,
        ..Stock::default()
    }
}

fn warm(eni: u32, ip: u32, minimum: u32, prefix: u32) -> WarmTargets {
    WarmTargets {
        eni,
        ip,
        minimum,
        prefix,
    }
}

fn singles(warm: WarmTargets, slots: u32) -> Targets {
    Targets {
        warm,
        unit: Unit::Address,
        slots,
    }
}

fn prefixes(warm: WarmTargets) -> Targets {
    Targets {
        warm,
        unit: Unit::Prefix,
        slots: 9,
    }
}

/// The documented states: an m5.large-like instance with 9 slots per interface, and t3.medium's 5.
#[test]
fn single_addresses() {
    let eni = |n| warm(n, 0, 0, 1);
    let ip = |w, m| warm(1, w, m, 1);
    #[rustfmt::skip]
    let cases = [
        // (warm, slots, (total, assigned, resting)) -> (short, over)
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
        // a minimum below the warm target: the warm target alone counts
        (ip(5, 2), 5, (4, 0, 0), (1, 0)),
        (ip(5, 2), 5, (6, 0, 0), (0, 1)),
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
        // WARM_PREFIX_TARGET says nothing without prefixes
        (warm(0, 0, 0, 9), 5, (5, 4, 0), (0, 0)),
        // ours: a resting address is not available
        (eni(1), 5, (10, 5, 2), (2, 0)),
        (ip(5, 0), 5, (10, 0, 8), (3, 0)),
    ];
    for (i, (warm, slots, (total, assigned, resting), (want_short, want_over))) in
        cases.into_iter().enumerate()
    {
        let stock = stock(total, assigned, resting);
        let targets = singles(warm, slots);
        let got = (short(targets, stock), over(targets, stock));
        let want = (want_short, Want::Addresses(want_over));
        assert_eq!(got, want, "case {i}: {targets:?} {stock:?}");
    }
}

/// The same with prefixes. WARM_ENI_TARGET never counts; the address targets go before
/// WARM_PREFIX_TARGET, and what is missing of them is exact here: the asking rounds up.
#[test]
fn whole_prefixes() {
    let p = |n| warm(3, 0, 0, n);
    let ip = |w, m| warm(3, w, m, 4);
    #[rustfmt::skip]
    let cases = [
        // (warm, (total, assigned, resting), free prefixes) -> (short in addresses, over in prefixes)
        (p(1), (0, 0, 0), 0, (16, 0)),
        (p(1), (16, 0, 0), 1, (0, 0)),
        // one pod in the only prefix: 15 are not 16
        (p(1), (16, 1, 0), 0, (16, 0)),
        (p(1), (32, 1, 0), 1, (0, 0)),
        // addresses left in begun prefixes count: 8 and 8 are 16
        (p(1), (32, 16, 0), 0, (0, 0)),
        (p(1), (48, 16, 0), 1, (0, 0)),
        (p(1), (48, 1, 0), 2, (0, 1)),
        (p(2), (32, 1, 0), 1, (16, 0)),
        (p(3), (0, 0, 0), 0, (48, 0)),
        (p(2), (64, 0, 0), 4, (0, 2)),
        // no target at all (refused by the settings): one prefix at a time, and the last one stays
        (p(0), (0, 0, 0), 0, (1, 0)),
        (p(0), (16, 16, 0), 0, (1, 0)),
        (p(0), (32, 16, 0), 1, (0, 0)),
        (p(0), (64, 16, 0), 3, (0, 2)),
        // WARM_IP_TARGET: upstream's table for 5
        (ip(5, 0), (0, 0, 0), 0, (5, 0)),
        (ip(5, 0), (16, 0, 0), 1, (0, 0)),
        (ip(5, 0), (16, 11, 0), 0, (0, 0)),
        (ip(5, 0), (16, 12, 0), 0, (1, 0)),
        (ip(5, 0), (32, 0, 0), 2, (0, 1)),
        (ip(5, 0), (32, 11, 0), 1, (0, 1)),
        (ip(5, 0), (32, 12, 0), 1, (0, 0)),
        (ip(17, 0), (32, 0, 0), 2, (0, 0)),
        // MINIMUM_IP_TARGET
        (ip(0, 20), (16, 0, 0), 1, (4, 0)),
        (ip(0, 20), (32, 0, 0), 2, (0, 0)),
        (ip(0, 20), (48, 0, 0), 3, (0, 1)),
        (ip(0, 20), (48, 3, 0), 2, (0, 1)),
        (ip(1, 20), (32, 31, 0), 0, (0, 0)),
        (ip(1, 20), (32, 32, 0), 0, (1, 0)),
        // ours: a prefix with a resting address is not free
        (p(1), (48, 1, 1), 1, (0, 0)),
        (ip(5, 0), (32, 0, 1), 1, (0, 1)),
        (ip(5, 0), (32, 0, 2), 0, (0, 0)),
    ];
    for (i, (warm, (total, assigned, resting), free_prefixes, (want_short, want_over))) in
        cases.into_iter().enumerate()
    {
        let stock = Stock {
            free_prefixes,
            ..stock(total, assigned, resting)
        };
        let targets = prefixes(warm);
        let got = (short(targets, stock), over(targets, stock));
        let want = (want_short, Want::Prefixes(want_over));
        assert_eq!(got, want, "case {i}: {warm:?} {stock:?}");
    }
}

#[test]
fn waiting_pods_come_on_top_of_every_target() {
    let waiting = |total, waiting| Stock {
        total,
        waiting,
        ..Stock::default()
    };
    let short_of = |targets, stock| short(targets, stock);
    assert_eq!(short_of(singles(warm(0, 2, 0, 0), 5), waiting(5, 3)), 5);
    assert_eq!(short_of(singles(warm(0, 0, 4, 0), 5), waiting(4, 3)), 3);
    assert_eq!(short_of(singles(warm(1, 0, 0, 0), 5), waiting(5, 3)), 8);
    // One prefix for the pod, and one that is whole.
    assert_eq!(short_of(prefixes(warm(1, 0, 0, 1)), waiting(16, 1)), 32);
    assert_eq!(short_of(prefixes(warm(1, 0, 0, 1)), waiting(16, 17)), 48);
    assert_eq!(short_of(prefixes(warm(1, 3, 0, 1)), waiting(16, 1)), 4);
}

/// Whatever goes, the pool is not too low afterwards: else it would come back at once.
#[test]
fn what_goes_is_not_missed() {
    for (eni, ip, minimum, prefix) in
        (0..3 * 3 * 4 * 3u32).map(|n| (n % 3, n / 3 % 3 * 7, n / 9 % 4 * 11, n / 36))
    {
        for unit in [Unit::Address, Unit::Prefix] {
            let targets = Targets {
                warm: warm(eni, ip, minimum, prefix),
                unit,
                slots: 5,
            };
            for total in 0..40u32 {
                for assigned in 0..=total {
                    for free_prefixes in 0..=(total - assigned) / PREFIX_SIZE {
                        check(targets, total, assigned, free_prefixes);
                    }
                }
            }
        }
    }
}

fn check(targets: Targets, total: u32, assigned: u32, free_prefixes: u32) {
    let with = |total: u32, free_prefixes: u32| Stock {
        free_prefixes,
        ..stock(total, assigned, 0)
    };
    let before = with(total, free_prefixes);
    if short(targets, before) == 0 {
        let over = over(targets, before);
        let gone = match over {
            Want::Prefixes(n) => n,
            Want::Addresses(_) => 0,
        };
        let after = with(
            total - over.addresses(),
            free_prefixes - gone.min(free_prefixes),
        );
        assert_eq!(short(targets, after), 0, "{targets:?} {before:?} {over:?}");
    }
    for addresses in 0..=before.available.min(20) {
        let prefixes = (addresses / PREFIX_SIZE).min(free_prefixes);
        let idle = Idle {
            addresses,
            prefixes,
        };
        if spare(targets, before, idle) {
            let after = with(total - addresses, free_prefixes - prefixes);
            assert_eq!(short(targets, after), 0, "{targets:?} {before:?} {idle:?}");
        }
    }
}

#[test]
fn single_addresses_stand_in_for_prefixes() {
    // A whole prefix's worth, as far as an interface carries it.
    let few = prefixes(warm(1, 0, 0, 1)).without_prefixes();
    assert_eq!((few.unit, few.warm.ip), (Unit::Address, 9));
    assert_eq!(short(few, Stock::default()), 9);
    // The address targets stay what they are.
    let exact = prefixes(warm(1, 3, 4, 1)).without_prefixes();
    assert_eq!(short(exact, Stock::default()), 4);
}
