//! The ways to a node, each a line for the user's shell that runs tcpdump there.

use anyhow::Context;
use reach::facts::Node;
use serde::Serialize;

use crate::read::Live;

#[derive(Debug, Serialize)]
pub(super) struct Command {
    /// `ssm`, `kubectl` or `lab`.
    by: &'static str,
    pub(super) command: String,
}

/// The ways to a node.
pub(super) struct Ways<'a> {
    pub(super) live: &'a Live,
    pub(super) node: &'a Node,
    pub(super) image: &'a str,
    pub(super) count: Option<u32>,
    pub(super) lab: bool,
}

impl Ways<'_> {
    /// One line each, for the user's shell.
    pub(super) fn commands(&self, link: &str, filter: &str) -> anyhow::Result<Vec<Command>> {
        let count = self.count.map(|n| format!(" -c {n}")).unwrap_or_default();
        let tcpdump = format!("tcpdump -nnl -i {link}{count} \"{filter}\"");
        let shell = serde_json::json!({"command": [format!("sudo {tcpdump}")]});
        let shell = serde_json::to_string(&shell).context("write the parameters of SSM")?;
        let target = &self.node.instance;
        let mut commands = vec![Command {
            by: "ssm",
            command: self.live.aws(&format!(
                "ssm start-session --target {target} --document-name AWS-StartNonInteractiveCommand --parameters '{shell}'"
            )),
        }];
        if let Some(name) = &self.node.kubernetes {
            let command = format!(
                "debug node/{} -it --profile=sysadmin --image={} -- chroot /host sh -c '{tcpdump}'",
                word(name),
                word(self.image)
            );
            commands.push(Command {
                by: "kubectl",
                command: self.live.kubectl(&command),
            });
        }
        if self.lab {
            let name = word(&self.node.name);
            commands.push(Command {
                by: "lab",
                command: format!("branchline lab node exec {name} -- sh -c '{tcpdump}'"),
            });
        }
        Ok(commands)
    }
}

/// A text as one word of a shell.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::node;
    use super::*;
    use std::process::Command as Process;

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        live: Live,
    }

    /// The arguments that a shell gives `program` in a line.
    fn arguments(program: &str, line: &str) -> Vec<String> {
        let script = format!("{program}() {{ printf '%s\\n' \"$@\"; }}\n{line}");
        let done = Process::new("sh").args(["-c", &script]).output();
        let done = done.expect("a shell");
        assert!(done.status.success(), "{line}: {done:?}");
        let text = String::from_utf8(done.stdout).expect("text");
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_shell_takes_each_line_as_it_is_meant() {
        let Only { live } = clap::Parser::parse_from(["x"]);
        let node = node(None);
        let ways = Ways {
            live: &live,
            node: &node,
            image: "busybox",
            count: Some(3),
            lab: true,
        };
        let filter = "host 10.0.1.5 and ((host 10.0.2.7) or (host 10.0.2.8))";
        // A shell that is not the node's must not look for the link.
        let link = "$(echo eth1)";
        let commands = ways.commands(link, filter).expect("commands");
        let meant = ["-nnl", "-i", "eth1", "-c", "3", filter];
        let [ssm, kubectl, lab] = &commands[..] else {
            panic!("three ways: {commands:?}")
        };
        assert!(commands.iter().all(|c| !c.command.contains('\n')));

        let words = arguments("aws", &ssm.command);
        let (last, before) = words.split_last().expect("words");
        assert_eq!(
            before.join(" "),
            "ssm start-session --target i-0123456789abcdef0 --document-name AWS-StartNonInteractiveCommand --parameters"
        );
        let parameters: serde_json::Value = serde_json::from_str(last).expect("JSON");
        let on_node = parameters["command"][0].as_str().expect("a command");
        assert!(on_node.contains(link), "{on_node}");
        let words = arguments("sudo", on_node);
        assert_eq!(words[0], "tcpdump");
        assert_eq!(words[1..], meant);

        for (program, line) in [("kubectl", kubectl), ("branchline", lab)] {
            let words = arguments(program, &line.command);
            let [.., sh, c, on_node] = &words[..] else {
                panic!("{words:?}")
            };
            assert_eq!((sh.as_str(), c.as_str()), ("sh", "-c"));
            assert_eq!(arguments("tcpdump", on_node), meant);
        }
    }

    #[test]
    fn odd_names_are_one_word() {
        assert_eq!(word("ip-10-0-1-11"), "ip-10-0-1-11");
        let odd = "a b'$(c)";
        assert_eq!(arguments("f", &format!("f {}", word(odd))), [odd]);
    }
}
