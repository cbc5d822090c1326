//! One line per object, in the words of `ip rule` and `ip route`: for tests, logs and errors.
//! What is printed can be read back.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use ipnet::Ipv4Net;

use crate::Error;
use crate::model::{Mark, Origin, Route, Rule, RuleAction, Scope, Target, host};
use crate::name::{LinkName, TableId};

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global"),
            Self::Site => f.write_str("site"),
            Self::Link => f.write_str("link"),
            Self::Host => f.write_str("host"),
            Self::Nowhere => f.write_str("nowhere"),
            Self::Other(n) => write!(f, "{n}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("kernel"),
            Self::Boot => f.write_str("boot"),
            Self::Static => f.write_str("static"),
            Self::Dhcp => f.write_str("dhcp"),
            Self::Other(n) => write!(f, "{n}"),
        }
    }
}

/// `10.0.0.0/24`, a single address without its `/32`, and `default` for everything.
struct Prefix(Ipv4Net);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.prefix_len() {
            0 => f.write_str("default"),
            32 => self.0.addr().fmt(f),
            _ => self.0.fmt(f),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Unicast { .. } | Target::Unmodelled(_) => {}
            Target::Local { .. } => f.write_str("local ")?,
            Target::Broadcast { .. } => f.write_str("broadcast ")?,
            Target::Blackhole => f.write_str("blackhole ")?,
            Target::Unreachable => f.write_str("unreachable ")?,
            Target::Prohibit => f.write_str("prohibit ")?,
            Target::Throw => f.write_str("throw ")?,
        }
        Prefix(self.dst).fmt(f)?;
        if let Target::Unicast {
            via: Some(gateway), ..
        } = &self.target
        {
            write!(f, " via {gateway}")?;
        }
        if let Some(link) = self.link() {
            write!(f, " dev {link}")?;
        }
        if self.table != TableId::MAIN {
            write!(f, " table {}", self.table)?;
        }
        if self.origin != Origin::Boot {
            write!(f, " proto {}", self.origin)?;
        }
        if self.scope != Scope::Global || Scope::of(&self.target) != Scope::Global {
            write!(f, " scope {}", self.scope)?;
        }
        if let Some(src) = self.prefsrc {
            write!(f, " src {src}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        match &self.target {
            Target::Unicast { onlink: true, .. } => f.write_str(" onlink"),
            Target::Unmodelled(text) => write!(f, " unmodelled {text}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mask {
            u32::MAX => write!(f, "{:#x}", self.value),
            mask => write!(f, "{:#x}/{mask:#x}", self.value),
        }
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup(table) => write!(f, "lookup {table}"),
            Self::Blackhole => f.write_str("blackhole"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Prohibit => f.write_str("prohibit"),
            Self::Goto(priority) => write!(f, "goto {priority}"),
            Self::Nop => f.write_str("nop"),
            Self::Unmodelled(text) => write!(f, "unmodelled {text}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.priority)?;
        if self.invert {
            f.write_str("not ")?;
        }
        match self.from {
            Some(net) => write!(f, "from {}", Prefix(net))?,
            None => f.write_str("from all")?,
        }
        if let Some(net) = self.to {
            write!(f, " to {}", Prefix(net))?;
        }
        if let Some(mark) = self.mark {
            write!(f, " fwmark {mark}")?;
        }
        if let Some(link) = &self.iif {
            write!(f, " iif {link}")?;
        }
        if let Some(link) = &self.oif {
            write!(f, " oif {link}")?;
        }
        if let Some(text) = &self.unmodelled {
            write!(f, " ({text})")?;
        }
        write!(f, " {}", self.action)
    }
}

/// The words of a line, one after the other, with errors that quote the whole line.
struct Words<'a> {
    line: &'a str,
    rest: std::iter::Peekable<std::str::SplitAsciiWhitespace<'a>>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        Self {
            line,
            rest: line.split_ascii_whitespace().peekable(),
        }
    }

    fn error(&self, reason: impl Into<String>) -> Error {
        Error::Line {
            line: self.line.to_owned(),
            reason: reason.into(),
        }
    }

    fn next(&mut self) -> Option<&'a str> {
        self.rest.next()
    }

    /// Takes the next word when it is this one.
    fn take(&mut self, word: &str) -> bool {
        self.rest.next_if(|w| *w == word).is_some()
    }

    /// The value after a keyword.
    fn value<T: FromStr>(&mut self, of: &str) -> Result<T, Error> {
        let word = self
            .next()
            .ok_or_else(|| self.error(format!("{of} has no value")))?;
        word.parse()
            .map_err(|_| self.error(format!("{of} cannot be {word:?}")))
    }

    fn prefix(&mut self, of: &str) -> Result<Option<Ipv4Net>, Error> {
        let word = self
            .next()
            .ok_or_else(|| self.error(format!("{of} has no value")))?;
        self.parse_prefix(word, of)
    }

    fn parse_prefix(&self, word: &str, of: &str) -> Result<Option<Ipv4Net>, Error> {
        if word == "all" || word == "default" {
            return Ok(None);
        }
        let net = word
            .parse::<Ipv4Net>()
            .or_else(|_| word.parse::<Ipv4Addr>().map(host));
        let net = net.map_err(|_| self.error(format!("{of} cannot be {word:?}")))?;
        if net.trunc() == net {
            Ok(Some(net))
        } else {
            Err(self.error(format!("{of} {net} has bits behind its prefix length")))
        }
    }
}

fn parse_number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => word.parse().ok(),
    }
}

impl FromStr for Mark {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
        parse_number(value)
            .zip(parse_number(mask))
            .map(|(value, mask)| Self { value, mask })
            .ok_or(Error::Line {
                line: text.to_owned(),
                reason: "a mark is VALUE or VALUE/MASK".to_owned(),
            })
    }
}

impl FromStr for Scope {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "global" => Ok(Self::Global),
            "site" => Ok(Self::Site),
            "link" => Ok(Self::Link),
            "host" => Ok(Self::Host),
            "nowhere" => Ok(Self::Nowhere),
            n => n.parse().map(Self::Other).map_err(|_| Error::Line {
                line: text.to_owned(),
                reason: "not a scope".to_owned(),
            }),
        }
    }
}

impl FromStr for Origin {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "kernel" => Ok(Self::Kernel),
            "boot" => Ok(Self::Boot),
            "static" => Ok(Self::Static),
            "dhcp" => Ok(Self::Dhcp),
            n => n.parse().map(Self::Other).map_err(|_| Error::Line {
                line: text.to_owned(),
                reason: "not a routing protocol".to_owned(),
            }),
        }
    }
}

/// The value of one keyword pair, filled in while a route's line is read.
#[derive(Default)]
struct RouteWords {
    via: Option<Ipv4Addr>,
    dev: Option<LinkName>,
    table: Option<TableId>,
    origin: Option<Origin>,
    scope: Option<Scope>,
    src: Option<Ipv4Addr>,
    metric: u32,
    onlink: bool,
}

impl RouteWords {
    fn read(words: &mut Words<'_>) -> Result<Self, Error> {
        let mut got = Self::default();
        while let Some(word) = words.next() {
            match word {
                "via" => got.via = Some(words.value(word)?),
                "dev" => got.dev = Some(words.value(word)?),
                "table" => got.table = Some(words.value(word)?),
                "proto" => got.origin = Some(words.value(word)?),
                "scope" => got.scope = Some(words.value(word)?),
                "src" => got.src = Some(words.value(word)?),
                "metric" => got.metric = words.value(word)?,
                "onlink" => got.onlink = true,
                // Flags of the moment in the output of `ip route`, not part of the route.
                "linkdown" | "dead" => {}
                other => return Err(words.error(format!("{other:?} is not understood"))),
            }
        }
        Ok(got)
    }
}

/// Reads a line of `ip route`. Without `scope` it is what `ip route add` would choose, without
/// `table` it is `main`.
impl FromStr for Route {
    type Err = Error;
    fn from_str(line: &str) -> Result<Self, Error> {
        let mut words = Words::of(line);
        const KINDS: [&str; 7] = [
            "unicast",
            "local",
            "broadcast",
            "blackhole",
            "unreachable",
            "prohibit",
            "throw",
        ];
        let first = words.next().ok_or_else(|| words.error("empty"))?;
        let (kind, dst) = match KINDS.contains(&first) {
            true => (
                first,
                words.next().ok_or_else(|| words.error("no destination"))?,
            ),
            false => ("unicast", first),
        };
        let dst = words
            .parse_prefix(dst, "the destination")?
            .unwrap_or_default();
        let got = RouteWords::read(&mut words)?;
        let link = || got.dev.clone().ok_or_else(|| words.error("no dev"));
        let target = match kind {
            "unicast" => Target::Unicast {
                link: link()?,
                via: got.via,
                onlink: got.onlink,
            },
            "local" => Target::Local { link: link()? },
            "broadcast" => Target::Broadcast { link: link()? },
            "blackhole" => Target::Blackhole,
            "unreachable" => Target::Unreachable,
            "prohibit" => Target::Prohibit,
            _ => Target::Throw,
        };
        let mut route = Self::new(got.table.unwrap_or(TableId::MAIN), dst, target);
        route.scope = got.scope.unwrap_or(route.scope);
        route.prefsrc = got.src;
        route.metric = got.metric;
        route.origin = got.origin.unwrap_or_default();
        Ok(route)
    }
}

/// Reads a line of `ip rule`: `512: from all to 10.0.0.1 lookup main`.
impl FromStr for Rule {
    type Err = Error;
    fn from_str(line: &str) -> Result<Self, Error> {
        let mut words = Words::of(line);
        let first = words.next().ok_or_else(|| words.error("empty"))?;
        let priority = first
            .strip_suffix(':')
            .and_then(|p| p.parse().ok())
            .ok_or_else(|| words.error("does not begin with PRIORITY:"))?;
        let mut rule = Self::lookup(priority, TableId::MAIN);
        let mut action = None;
        rule.invert = words.take("not");
        while let Some(word) = words.next() {
            match word {
                "from" => rule.from = words.prefix(word)?,
                "to" => rule.to = words.prefix(word)?,
                "fwmark" => rule.mark = Some(words.value(word)?),
                "iif" => rule.iif = Some(words.value(word)?),
                "oif" => rule.oif = Some(words.value(word)?),
                "lookup" => action = Some(RuleAction::Lookup(words.value(word)?)),
                "goto" => action = Some(RuleAction::Goto(words.value(word)?)),
                "blackhole" => action = Some(RuleAction::Blackhole),
                "unreachable" => action = Some(RuleAction::Unreachable),
                "prohibit" => action = Some(RuleAction::Prohibit),
                "nop" => action = Some(RuleAction::Nop),
                other => return Err(words.error(format!("{other:?} is not understood"))),
            }
        }
        rule.action = action.ok_or_else(|| words.error("no action"))?;
        Ok(rule)
    }
}
