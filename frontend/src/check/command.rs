//! The program that a command of a script runs, and its arguments.

use super::script::{ScriptCommand, ScriptWord};

/// A program with its arguments, whatever stands before its name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program<'c> {
    /// Without its directory.
    pub(super) name: &'c str,
    /// The name's word.
    pub(super) word: &'c ScriptWord,
    /// What follows the name.
    pub(super) arguments: &'c [ScriptWord],
    /// More arguments come from elsewhere (`xargs`).
    pub(super) is_fed: bool,
}

/// Programs that run the program named behind their options, with the options that take a value.
const WRAPPERS: [(&str, &[&str]); 10] = [
    ("command", &[]),
    ("doas", &["-u", "-C"]),
    ("eatmydata", &[]),
    ("env", &["-u", "-C", "-S"]),
    ("exec", &["-a"]),
    ("nice", &["-n"]),
    ("nohup", &[]),
    ("sudo", &["-u", "-g", "-h", "-p", "-C"]),
    ("timeout", &["-s", "-k"]),
    ("xargs", &["-n", "-P", "-I", "-L", "-d", "-a", "-s", "-E"]),
];

impl<'c> Program<'c> {
    /// Looks through wrappers such as `sudo` and `env A=b`.
    pub(super) fn of(command: &'c ScriptCommand) -> Option<Self> {
        let mut words = command.words.as_slice();
        let mut is_fed = false;
        loop {
            let (word, rest) = words.split_first()?;
            let name = base_name(&word.text);
            let Some((_, with_value)) = WRAPPERS.iter().find(|(wrapper, _)| *wrapper == name)
            else {
                return Some(Self { name, word, arguments: rest, is_fed });
            };
            is_fed |= name == "xargs";
            let mut at = 0;
            while let Some(option) = rest.get(at) {
                let text = option.text.as_str();
                let is_value = text.contains('=') && !text.starts_with('-') && name == "env";
                if !text.starts_with('-') && !is_value {
                    break;
                }
                at += if with_value.contains(&text) { 2 } else { 1 };
            }
            // The duration comes before the program.
            at += usize::from(name == "timeout");
            words = rest.get(at..)?;
        }
    }

    /// Splits the arguments into options and the others; options of `with_value` take the word
    /// behind them.
    pub(super) fn split(&self, with_value: &[&str]) -> Arguments<'c> {
        let mut arguments = Arguments { options: Vec::new(), others: Vec::new() };
        let mut words = self.arguments.iter();
        while let Some(word) = words.next() {
            if word.text == "--" {
                arguments.others.extend(words);
                break;
            }
            if word.text.len() < 2 || !word.text.starts_with('-') {
                arguments.others.push(word);
                continue;
            }
            let value = if with_value.contains(&word.text.as_str()) { words.next() } else { None };
            arguments.options.push((word.text.as_str(), value.map(|value| value.text.as_str())));
        }
        arguments
    }
}

/// Arguments told apart.
#[derive(Clone, Debug)]
pub(super) struct Arguments<'c> {
    /// Options with the value that follows them.
    pub(super) options: Vec<(&'c str, Option<&'c str>)>,
    /// Everything else, in order.
    pub(super) others: Vec<&'c ScriptWord>,
}

impl<'c> Arguments<'c> {
    /// Whether an option is given: `--name`, `--name=value`, or `-n`, which may stand in a cluster.
    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.options.iter().any(|(option, _)| names.iter().any(|name| is_option(option, name)))
    }

    /// The first argument that is no option: the subcommand of most package managers.
    pub(super) fn subcommand(&self) -> Option<&'c ScriptWord> {
        self.others.first().copied()
    }

    /// The arguments behind the subcommand that a rule can judge.
    pub(super) fn plain_operands(&self) -> impl Iterator<Item = &'c ScriptWord> {
        self.others.iter().skip(1).copied().filter(|word| word.is_plain && !word.text.is_empty())
    }
}

fn is_option(given: &str, name: &str) -> bool {
    if given == name {
        return true;
    }
    if name.starts_with("--") {
        return given.split_once('=').is_some_and(|(left, _)| left == name);
    }
    let (Some(letter), true) = (name.strip_prefix('-'), name.len() == 2) else { return false };
    let cluster = given.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
    cluster.is_some_and(|cluster| {
        let letters = cluster.split(|c: char| !c.is_ascii_alphanumeric()).next();
        letters.is_some_and(|letters| letters.contains(letter))
    })
}

fn base_name(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::super::script::split;
    use super::*;

    #[test]
    fn programs() {
        #[rustfmt::skip]
        let cases = [
            ("plain",       "apt-get update",                     "apt-get 1"),
            ("path",        "/usr/bin/apt-get update",            "apt-get 1"),
            ("sudo",        "sudo -E -u root apt-get update",     "apt-get 1"),
            ("env",         "env -i A=b apt-get update -q",       "apt-get 2"),
            ("timeout",     "timeout -k 5 60 apt-get update",     "apt-get 1"),
            ("several",     "sudo nice -n 5 apt-get update",      "apt-get 1"),
            ("xargs",       "xargs -n 1 apt-get install",         "apt-get 1"),
        ];
        for (name, text, want) in cases {
            let commands = split(text);
            let program = Program::of(&commands[0]).unwrap();
            assert_eq!(format!("{} {}", program.name, program.arguments.len()), want, "{name}");
        }
        assert!(Program::of(&split("sudo -i")[0]).is_none());
    }

    #[test]
    fn options() {
        let commands = split("apt-get -o A=b -yq --no-install-recommends --x=1 install -- -z a");
        let arguments = Program::of(&commands[0]).unwrap().split(&["-o"]);
        for option in ["-y", "-q", "--no-install-recommends", "--x", "-o"] {
            assert!(arguments.has(&[option]), "{option}");
        }
        assert!(!arguments.has(&["-z", "-n", "--y"]));
        let others: Vec<&str> = arguments.others.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(others, ["install", "-z", "a"]);
        assert_eq!(arguments.options[0], ("-o", Some("A=b")));
    }
}
