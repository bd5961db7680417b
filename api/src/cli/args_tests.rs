//! Command lines and what they mean.

use clap::CommandFactory as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    let words = ["rbuild"].into_iter().chain(line.split_whitespace()).map(Into::into);
    Cli::try_parse_from(super::super::shorthand::expand(words))
}

fn build(line: &str) -> BuildArgs {
    match parse(line).unwrap_or_else(|error| panic!("{line}: {error}")).command {
        Command::Build(args) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn the_parser_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn builds_are_understood() {
    let args = build(
        "-t a:1 -t b -f x/Dockerfile -o type=oci,dest=o.tar -o out -o - --target t \
         --build-arg A=1=2 --build-arg B --label l=v --platform arm64,amd64 --network none --no-cache \
         --pull --progress plain --ca-cert c.pem --add-host h:::1 --build-context n=docker-image://x \
         --iidfile i --metadata-file m --jobs 2 ctx",
    );
    assert_eq!(args.tag, ["a:1", "b"]);
    assert_eq!(args.context, PathBuf::from("ctx"));
    assert_eq!(args.build_arg, [("A".into(), Some("1=2".into())), ("B".into(), None)]);
    let platforms: Vec<_> = args.platform.iter().map(ToString::to_string).collect();
    assert_eq!(platforms, ["linux/arm64", "linux/amd64"]);
    assert_eq!(args.network, Some(NetworkMode::None));
    assert_eq!(args.progress, Mode::Plain);
    assert_eq!(args.add_host, [("h".into(), "::1".into())]);
    assert_eq!(args.build_context, [("n".into(), "docker-image://x".into())]);
    let want = ["type=oci,dest=o.tar", "out", "-"].map(|text| OutputSpec::parse(text).unwrap());
    assert_eq!(args.output, want);
    assert_eq!(args.target, [("t".into(), None)]);
    assert!(args.no_cache && args.pull && !args.quiet);
    assert_eq!(build("-q -").context, PathBuf::from("-"));
}

#[test]
fn global_options_stand_anywhere() {
    for line in [
        "--store s --registry-mirror docker.io=http://m -t x .",
        "build --store s -t x . --registry-mirror docker.io=http://m",
        "--registry-mirror docker.io=http://m build --store s -t x .",
    ] {
        let cli = parse(line).unwrap();
        assert_eq!(cli.global.store, Some("s".into()), "{line}");
        let want = [("docker.io".to_owned(), "http://m".to_owned())];
        assert_eq!(cli.global.registry_mirror, want, "{line}");
    }
    let both = "--registry-mirror a=http://1 build --registry-mirror a=http://2 .";
    assert_eq!(parse(both).unwrap().global.registry_mirror.len(), 2);
    assert_eq!(parse("--store s store check").unwrap().global.store, Some("s".into()));
    assert_eq!(parse("store check --store s").unwrap().global.store, Some("s".into()));
}

#[test]
fn what_follows_an_image_to_run_is_its_command() {
    let Command::Run(args) =
        parse("run --rm -p 8081:3000 -e A=1 -e B app-node:1 sh -c x --rm --store y")
            .unwrap()
            .command
    else {
        panic!("not a run");
    };
    assert_eq!(args.command, ["sh", "-c", "x", "--rm", "--store", "y"]);
    assert_eq!(args.publish, [(8081, 3000)]);
    assert_eq!(args.env, [("A".into(), Some("1".into())), ("B".into(), None)]);
}

#[test]
fn every_command_of_the_shape_is_there() {
    for line in [
        "serve --listen unix:///run/x.sock",
        "serve --listen tcp://127.0.0.1:2375",
        "images",
        "history a",
        "inspect a b",
        "pull a",
        "push a",
        "push a b",
        "tag a b",
        "rmi a b",
        "save a -o f",
        "load -i f",
        "run --rm -p 1:2 a",
        "du",
        "doctor --json",
        "prune --all",
        "store check --repair",
        "version",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn mistakes_are_named() {
    #[rustfmt::skip]
    let cases = [
        ("--squish .",                      "--squish"),
        ("-t x",                            "PATH"),
        ("a b",                             "unexpected argument 'b'"),
        ("-o type=zip,dest=x .",            "there is no type `zip`"),
        ("-o type=oci .",                   "`dest` is missing"),
        ("-o type=local,dest=- .",          "a directory cannot go to standard output"),
        ("-o type=oci,dest=x,push=true .",  "there is no option `push`"),
        ("--target =x .",                   "the stage is empty"),
        ("--build-arg =x .",                "the name is empty"),
        ("--add-host x .",                  "`x` is not HOST:ADDRESS"),
        ("--platform a/b/c/d .",            "is not a platform"),
        ("--network bridge .",              "possible values: default, none, host"),
        ("--jobs 0 .",                      "--jobs"),
        ("-q --progress plain .",           "cannot be used with"),
        ("--registry-mirror x .",           "expected HOST=URL"),
        ("--registry-mirror x=y .",         "begins with neither http:// nor https://"),
        ("serve --listen ftp://x",          "is not an address"),
        ("run -p 80 x",                     "expected HOST:CONTAINER"),
        ("run -p 0:80 x",                   "expected HOST:CONTAINER"),
        ("store",                           "Usage"),
        ("",                                "Usage"),
    ];
    for (line, want) in cases {
        let text = parse(line).unwrap_err().to_string();
        assert!(text.contains(want), "{line}: {text}");
    }
}
