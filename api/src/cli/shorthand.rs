//! `rbuild -t x .` is short for `rbuild build -t x .`, and global options may stand anywhere.

use std::ffi::OsString;

use clap::Subcommand as _;

use super::args::Command;

/// Global options that take a value, see [`super::args::Global`].
const GLOBAL_OPTIONS: [&str; 3] = ["--store", "--host", "--registry-mirror"];

/// Puts `build` where the command is missing, and global options that stand before the command
/// behind it: the parser does not join repeated options of both places.
pub(crate) fn expand(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    let mut first = 1;
    while let Some(width) = args.get(first).and_then(global_width) {
        first += width;
    }
    let Some(word) = args.get(first).and_then(|arg| arg.to_str()) else {
        // Nothing, or a path that is no text: the parser tells what is missing.
        if first < args.len() {
            args.insert(1, "build".into());
        }
        return args;
    };
    if matches!(word, "-h" | "--help" | "-V" | "--version" | "help") {
        return args;
    }
    if Command::has_subcommand(word) {
        let command = args.remove(first);
        args.insert(1, command);
    } else {
        args.insert(1, "build".into());
    }
    args
}

/// Returns how many words a global option takes; `None` for anything else.
fn global_width(arg: &OsString) -> Option<usize> {
    let arg = arg.to_str()?;
    if GLOBAL_OPTIONS.contains(&arg) {
        return Some(2);
    }
    let (name, _) = arg.split_once('=')?;
    GLOBAL_OPTIONS.contains(&name).then_some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_filled_in() {
        #[rustfmt::skip]
        let cases = [
            ("-t x .",                       "build -t x ."),
            (".",                            "build ."),
            ("-",                            "build -"),
            ("build -t x .",                 "build -t x ."),
            ("./images",                     "build ./images"),
            ("-- images",                    "build -- images"),
            ("images -q",                    "images -q"),
            ("--store s -t x .",             "build --store s -t x ."),
            ("--store s images",             "images --store s"),
            ("--store=s --host h images -q", "images --store=s --host h -q"),
            ("--registry-mirror a=b build --registry-mirror c=d .",
                                             "build --registry-mirror a=b --registry-mirror c=d ."),
            ("run --rm x --store y",         "run --rm x --store y"),
            ("--store s store check",        "store --store s check"),
            ("--help",                       "--help"),
            ("--store s --version",          "--store s --version"),
            ("help build",                   "help build"),
            ("",                             ""),
            ("--store",                      "--store"),
            ("--store s",                    "--store s"),
            ("imgaes",                       "build imgaes"),
        ];
        for (given, want) in cases {
            let given: Vec<OsString> =
                ["rbuild"].into_iter().chain(given.split_whitespace()).map(Into::into).collect();
            let got = expand(given);
            let got: Vec<&str> = got.iter().skip(1).map(|arg| arg.to_str().unwrap()).collect();
            assert_eq!(got.join(" "), want);
        }
    }
}
