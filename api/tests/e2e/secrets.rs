//! `RUN --mount=type=secret`: the step has the value, and nothing else ever does.

use std::path::Path;

use crate::support::{Ran, Server, bases, command, context, rbuild, run};

/// No other text in the store, the base images or the log holds it.
const CANARY: &str = "canary-5d41402abc4b2a76+b9719d911017c592";

/// The same in hex.
const HEX: &str = "63616e6172792d35643431343032616263346232\
                   6137362b62393731396439313130313763353932";

/// Builds a Dockerfile that mounts the secret `t`, which is [`CANARY`].
fn build(store: &Path, dockerfile: &str, extra: &[&str]) -> Ran {
    build_with(CANARY, store, dockerfile, extra)
}

fn build_with(secret: &str, store: &Path, dockerfile: &str, extra: &[&str]) -> Ran {
    let dir = context(&[("Dockerfile", dockerfile)]);
    let mut build = rbuild(store, &["--progress", "plain", "--secret", "id=t,env=E2E_SECRET"]);
    run(build.args(extra).arg(dir.path()).env("E2E_SECRET", secret))
}

#[test]
fn a_step_has_its_secret_and_nothing_else_does() {
    let store = bases();
    let dockerfile = format!(
        "FROM busybox\n\
         RUN --mount=type=secret,id=t test \"$(stat -c '%a %u:%g' /run/secrets/t)\" = '400 0:0' \\\n\
           && test \"$(stat -f -c %T /run/secrets/t)\" = tmpfs\n\
         RUN --mount=type=secret,id=t,target=/etc/token,mode=0440,uid=1,gid=2 \\\n\
           test \"$(stat -c '%a %u:%g' /etc/token)\" = '440 1:2' && grep -q 5d41402 /etc/token\n\
         RUN --mount=type=secret,id=t,env=TOKEN test \"${{#TOKEN}}\" = {length} \\\n\
           && test ! -e /run/secrets/t\n\
         RUN --mount=type=secret,id=t,env=TOKEN,target=/both test \"$(cat /both)\" = \"$TOKEN\"\n\
         RUN --mount=type=secret,id=none test ! -e /run/secrets/none\n\
         RUN test ! -e /run/secrets/t -a ! -e /run/secrets -a ! -e /etc/token -a -z \"$TOKEN\"\n",
        length = CANARY.len()
    );
    build(store, &dockerfile, &["-t", "secret:1", "--no-cache"]).ok();
    let found = run(&mut command("grep", &["-rlF", CANARY, store.to_str().unwrap()]));
    assert_eq!(found.stdout, "", "the value is nowhere in the store");
}

#[test]
fn output_is_masked_in_every_form() {
    let store = bases();
    let ran = build(
        store,
        "FROM busybox\n\
         RUN --mount=type=secret,id=t,env=T \\\n\
           echo \"plain $T.\"; printf 'split %s' \"${T%d*}\"; sleep 0.2; echo \"d${T##*d}.\"; \\\n\
           for before in '' a ab; do echo \"$before$T\" | base64; done; \\\n\
           printf %s \"$T\" | od -An -v -tx1 | tr -d ' \\n'; echo; \\\n\
           echo \"url $(echo $T | sed 's/+/%2B/').\"; echo \"err $T.\" >&2; exit 3\n",
        &["--no-cache"],
    );
    let ran = ran.fails_with(1).says("plain ***.").says("split ***.").says("url ***.");
    let ran = ran.says("err ***.");
    let said = format!("{}{}", ran.stdout, ran.stderr);
    // No run of eight characters of the value, its hex or its base64.
    for text in [CANARY, HEX, "Y2FuYXJ5LTVkNDE0MDJhYmM0YjJhNzYr", "FuYXJ5LTVkNDE0"] {
        for at in 0..=text.len() - 8 {
            assert!(!said.contains(&text[at..at + 8]), "{} in {said}", &text[at..at + 8]);
        }
    }
}

#[test]
fn a_secret_left_in_the_image_fails_the_build() {
    let store = bases();
    #[rustfmt::skip]
    let leaks = [
        ("plain",     "echo \"x $T\" > /a",                       "the file `/a` as it is"),
        ("base64",    "echo \"ab$T\" | base64 -w0 > /b",          "the file `/b` in base64"),
        ("hex",       "printf %s $T | od -An -v -tx1 | tr -d ' \\n' > /c", "the file `/c` in hex"),
        ("url",       "echo $T | sed 's/+/%2B/' > /d",            "the file `/d` URL-encoded"),
        ("name",      "mkdir -p /e && touch /e/$T",               "a name in the directory `/e` as it is"),
        ("link",      "ln -s $T /f",                              "the link `/f` as it is"),
        ("tar",       "cd /tmp && echo $T > x && tar cf /g.tar x && rm x", "the file `/g.tar` as it is"),
        ("config",    "true",                                     "entry 2 of the image's history as it is"),
    ];
    for (name, leak, place) in leaks {
        // That case's Dockerfile holds the value, and so does the record of its build.
        let (secret, tail) = match name {
            "config" => ("config-canary-6512bd43", "ENV COPY=config-canary-6512bd43\n"),
            _ => (CANARY, ""),
        };
        let dockerfile = format!("FROM busybox\nRUN --mount=type=secret,id=t,env=T {leak}\n{tail}");
        let ran = build_with(secret, store, &dockerfile, &["-t", "leak:1"]).fails_with(1);
        let ran = ran.says(place).says("secret `t` is in").says("--allow secret.leak");
        assert!(!format!("{ran:?}").contains(CANARY), "{name}: {ran:?}");
    }
    let found = run(&mut command("grep", &["-rlF", CANARY, store.to_str().unwrap()]));
    assert_eq!(found.stdout, "", "what leaked was thrown away");
}

#[test]
fn an_allowed_leak_is_told_and_not_reused() {
    let store = bases();
    let dockerfile = "FROM busybox\nRUN --mount=type=secret,id=t,env=T echo $T > /allowed\n";
    // Not the one that other tests search the store for.
    let build = |extra: &[&str]| build_with("another-canary-61726b", store, dockerfile, extra);
    build(&["--allow", "secret.leak", "--no-cache"])
        .ok()
        .says("secret `t` is in the file `/allowed` as it is; this is allowed");
    build(&[]).fails_with(1).says("the file `/allowed`");
}

#[test]
fn values_are_no_part_of_a_key() {
    let store = bases();
    let dir = context(&[(
        "Dockerfile",
        "FROM busybox\nRUN --mount=type=secret,id=k,required echo keyed > /k\n",
    )]);
    let build = |value: &str| {
        let mut build = rbuild(store, &["--progress", "plain", "--secret", "id=k,env=K"]);
        run(build.arg(dir.path()).env("K", value)).ok()
    };
    build("first value");
    build("second value").says("CACHED");
    let missing = run(rbuild(store, &["--no-cache"]).arg(dir.path())).fails_with(1);
    missing.says("the step needs the secret `k`, which was not given").says("--secret id=k");
}

#[test]
fn short_secrets_are_told() {
    let dir = context(&[("Dockerfile", "FROM busybox\n")]);
    let mut build = rbuild(bases(), &["--progress", "plain", "--secret", "id=pin,env=PIN"]);
    run(build.arg(dir.path()).env("PIN", "123")).ok().says("neither masked");
}

#[test]
fn what_weakens_the_sandbox_must_be_allowed() {
    let store = bases();
    #[rustfmt::skip]
    let cases: [(&str, &[&str], &str); 4] = [
        ("FROM busybox\nRUN --network=host true\n",        &[],                    "it needs the entitlement `network.host`"),
        ("FROM busybox\nRUN true\n",                       &["--network", "host"], "it needs the entitlement `network.host`"),
        ("FROM busybox\nRUN --security=insecure true\n",   &[],                    "it needs the entitlement `security.insecure`"),
        ("FROM busybox\nRUN --device=/dev/fuse true\n",    &[],                    "it needs the entitlement `device=/dev/fuse`"),
    ];
    for (dockerfile, extra, want) in cases {
        build(store, dockerfile, extra).fails_with(1).says(want).says("add `--allow ");
    }
    let host = "FROM busybox\nRUN --network=host test -d /sys/class/net\n";
    build(store, host, &["--allow", "network.host", "--no-cache"]).ok();
}

#[test]
fn a_service_gets_them_for_one_build_and_keeps_them_nowhere() {
    let store = crate::explain::busybox_store();
    let store = store.path().join("store");
    let dir = tempfile::tempdir().unwrap();
    let step = "RUN --mount=type=secret,id=t,env=T,required echo \"${#T} $T.\"";
    let files = context(&[("Dockerfile", &format!("FROM busybox\n{step}\n"))]);
    let socket = dir.path().join("socket");
    let url = format!("unix://{}", socket.display());
    let log = dir.path().join("log");
    let mut serve = rbuild(&store, &["serve", "--listen", &url]);
    serve.env("RBUILD_LOG", "trace").stderr(std::fs::File::create(&log).unwrap());
    let _server = Server::start(serve.stdout(std::process::Stdio::null()), || socket.exists());
    let build = |host: &str, secret: &str| {
        let args = ["--host", host, "--progress", "plain", "--network", "none", "--no-cache"];
        let mut build = rbuild(&store, &args);
        build.args(["--secret", "id=t,env=E2E_SECRET"]).arg(files.path());
        run(build.env("E2E_SECRET", secret).env("RBUILD_LOG", "trace"))
    };
    let ran = build(&url, CANARY).ok().says(&format!("{} ***.", CANARY.len()));
    let forms = [CANARY, HEX, "Y2FuYXJ5LTVkNDE0MDJhYmM0YjJhNzYr", "WTJGdVlYSjVMVFZrTkRFME1ESmhZ"];
    let log = std::fs::read_to_string(&log).unwrap();
    for form in forms {
        assert!(!log.contains(form) && !ran.stderr.contains(form), "{form} in a log");
        let found = run(&mut command("grep", &["-rlF", form, store.to_str().unwrap()]));
        assert_eq!(found.stdout, "", "the value is nowhere in the store");
    }
    let large = dir.path().join("large");
    std::fs::write(&large, "x".repeat(129 << 10)).unwrap();
    let spec = format!("id=t,src={}", large.display());
    let mut build_large = rbuild(&store, &["--host", &url, "--secret", &spec]);
    run(build_large.arg(files.path())).fails_with(1).says("more than 128 KiB");
    build("tcp://192.0.2.1:2375", CANARY).fails_with(1).says("others may listen");
}
