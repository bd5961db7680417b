//! What a step may do in its sandbox, as builds show it.

use crate::support::{Ran, bases, context, rbuild, run};

/// Builds a Dockerfile with the options.
fn build(dockerfile: &str, options: &[&str]) -> Ran {
    let dir = context(&[("Dockerfile", dockerfile)]);
    let mut build = rbuild(bases(), &["--progress", "plain", "--network", "none"]);
    run(build.args(options).arg(dir.path()))
}

#[test]
fn set_user_id_programs_work_unless_nobody_wants_that() {
    let dockerfile = "FROM debian:bookworm-slim\n\
        RUN cp /usr/bin/id /suid && chmod 4755 /suid\n\
        USER 65534:65534\n\
        RUN echo \"is $(/suid -u)\" $(grep NoNewPrivs /proc/self/status)\n";
    let option = ["--no-cache", "--security-opt", "no-new-privileges"];
    build(dockerfile, &["--no-cache"]).ok().says("is 0 NoNewPrivs: 0");
    build(dockerfile, &option).ok().says("is 65534 NoNewPrivs: 1");

    let dir = context(&[("rbuild.toml", "[run]\nno_new_privs = true\n")]);
    let config = dir.path().join("rbuild.toml");
    let script = "echo is $(/usr/bin/sed -n 's/NoNewPrivs://p' /proc/self/status)";
    #[rustfmt::skip]
    let cases: [(&[&str], bool, &str); 3] = [
        (&[],                                       false, "is 0"),
        (&["--security-opt", "no-new-privileges"],  false, "is 1"),
        (&["--security-opt", "no-new-privileges=false"], true, "is 1"),
    ];
    for (options, is_configured, want) in cases {
        let args = [&["run", "--network", "none"], options, &["debian:bookworm-slim", "sh", "-c"]];
        let mut command = rbuild(bases(), &args.concat());
        if is_configured {
            command.env("RBUILD_CONFIG", &config);
        }
        run(command.arg(script)).ok().says(want);
    }
}
