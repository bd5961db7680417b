use super::*;

fn parse(query: &str) -> Result<BuildQuery, ApiError> {
    BuildQuery::parse(&pairs(Some(query)))
}

#[test]
fn what_docker_sends_is_understood() {
    let args = |pairs: &[(&str, Option<&str>)]| {
        pairs.iter().map(|&(k, v)| (k.into(), v.map(Into::into))).collect()
    };
    let none = BuildQuery::default;
    #[rustfmt::skip]
    let cases = [
        ("nothing set",  "dockerfile=Dockerfile&version=1", BuildQuery { dockerfile: Some("Dockerfile".into()), ..none() }),
        ("tags",         "t=a&t=b%3A1",                     BuildQuery { tags: vec!["a".into(), "b:1".into()], ..none() }),
        ("arguments",    "buildargs=%7B%22Q%22%3A%221%22%2C%22V%22%3Anull%7D",
                                                            BuildQuery { build_args: args(&[("Q", Some("1")), ("V", None)]), ..none() }),
        ("null maps",    "buildargs=null&labels=",          none()),
        ("labels",       "labels=%7B%22k%22%3A%22v+w%22%7D", BuildQuery { labels: [("k".into(), "v w".into())].into(), ..none() }),
        ("hosts",        "extrahosts=a:1.2.3.4&extrahosts=b:::1", BuildQuery {
            extra_hosts: vec![("a".into(), "1.2.3.4".into()), ("b".into(), "::1".into())], ..none() }),
        ("host gateway", "extrahosts=h:host-gateway",       BuildQuery { extra_hosts: vec![("h".into(), "host-gateway".into())], ..none() }),
        ("network",      "networkmode=none",                BuildQuery { network: Some(NetworkMode::None), ..none() }),
        ("bridge",       "networkmode=bridge",              BuildQuery { network: Some(NetworkMode::Default), ..none() }),
        ("platform",     "platform=linux/arm64",            BuildQuery { platform: Some(Platform::parse("linux/arm64").unwrap()), ..none() }),
        ("target",       "target=base&nocache=1&pull=true&q=1", BuildQuery {
            target: Some("base".into()), no_cache: true, pull: true, quiet: true, ..none() }),
        ("false flags",  "nocache=0&pull=false&q=",         none()),
        ("clean-up",     "rm=0&forcerm=1",                  BuildQuery { keeps_containers: true, force_rm: true, ..none() }),
        ("no clean-up",  "rm=&forcerm=",                    none()),
        ("squash",       "squash=1",                        BuildQuery { squash: true, ..none() }),
        ("limits",       "memory=1048576&cpuquota=5000&shmsize=2", BuildQuery { limits: Limits {
            memory: Some(builder::Bound::At(1 << 20)), shm_bytes: Some(2),
            cpu: Some(builder::CpuTime { quota_micros: 5000, period_micros: 100_000 }), ..Limits::default() }, ..none() }),
        ("cache",        "cachefrom=%5B%22a%3Ab%22%5D",     BuildQuery { cache_from: vec![CacheFrom::parse("a:b").unwrap()], ..none() }),
        ("unset limits", "memory=0&memswap=0&cpusetcpus=&shmsize=0&ulimits=null&cachefrom=%5B%5D&squash=0&remote=&isolation=default", none()),
    ];
    for (name, query, want) in cases {
        assert_eq!(parse(query).unwrap(), want, "{name}");
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    #[rustfmt::skip]
    let cases = [
        ("unknown",       "colour=red",             "invalid parameter `colour`: there is no such parameter"),
        ("memory",        "memory=much",            "invalid parameter `memory`: `much` is not a number"),
        ("ulimits",       "ulimits=%5B%7B%22Name%22%3A%22x%22%2C%22Soft%22%3A1%2C%22Hard%22%3A1%7D%5D",
                          "invalid parameter `ulimits`: there is no ulimit `x`; there are as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, stack"),
        ("local cache",   "cacheto=%5B%22type%3Dlocal%2Cdest%3D%2Fd%22%5D", "invalid parameter `cacheto`: a service keeps no cache in a directory: use type=registry"),
        ("other cache",   "cachefrom=%5B%22type%3Dgha%22%5D", "invalid parameter `cachefrom`: caches of type `gha` are not supported; those that are: registry and local"),
        ("buildkit",      "version=2",              "parameter `version` is not supported by rbuild: only the classic builder's 1 is spoken"),
        ("parent",        "cgroupparent=a",         "parameter `cgroupparent` is not supported by rbuild"),
        ("container net", "networkmode=container:x", "invalid parameter `networkmode`: `container:x` is not default, none or host"),
        ("bad platform",  "platform=a/b/c/d",       "invalid parameter `platform`: `a/b/c/d` is not a platform: expected os[/architecture[/variant]], such as linux/amd64"),
        ("bad resolver",  "dns=x",                  "invalid parameter `dns`: `x` is not an IP address"),
        ("bad domain",    "dnssearch=a%20b",        "invalid parameter `dnssearch`: `a b` is not one word"),
        ("bad host",      "extrahosts=h:x",         "invalid parameter `extrahosts`: `x` is not an IP address"),
        ("bad seconds",   "cachettl=1h",            "invalid parameter `cachettl`: `1h` is not a whole number of seconds"),
        ("bad json",      "labels=%7B",             "invalid parameter `labels`: EOF while parsing an object at line 1 column 1"),
    ];
    for (name, query, want) in cases {
        assert_eq!(parse(query).unwrap_err().to_string(), want, "{name}");
    }
}

#[test]
fn what_the_client_writes_is_read_back() {
    let query = BuildQuery {
        tags: vec!["reg.local:5000/a b/c:1".into(), "ü".into()],
        dockerfile: Some("a&b=c".into()),
        remote: Some("https://u:p@a.b/c.git?ref=x#y:z".into()),
        build_args: [("K".into(), Some("v\n&".into())), ("N".into(), None)].into(),
        labels: [("l".into(), "\"".into())].into(),
        target: Some("x".into()),
        platform: Some(Platform::parse("linux/arm/v6").unwrap()),
        network: Some(NetworkMode::Host),
        extra_hosts: vec![("h".into(), "::1".into())],
        dns: Dns {
            servers: vec!["192.0.2.1".parse().unwrap()],
            search: vec!["a.test".into()],
            options: vec!["ndots:2".into()],
        },
        limits: Limits { memory: Some(builder::Bound::At(5)), ..Limits::default() },
        no_new_privs: true,
        squash: true,
        no_cache: true,
        no_cache_filter: vec!["base".into(), "2".into()],
        cache_ttl: Some(Duration::from_secs(3600)),
        cache_from: vec![
            CacheFrom::parse("type=registry,ref=h.x/a:c,require-signed=true").unwrap(),
        ],
        cache_to: vec![CacheTo::parse("type=registry,ref=h.x/a:c,mode=auto").unwrap()],
        cache_scopes: vec!["feature/x".into()],
        pull: true,
        quiet: true,
        keeps_containers: true,
        force_rm: true,
        build_id: Some("b 1".into()),
        allow: Entitlements::all(),
    };
    assert_eq!(parse(&query.encode()).unwrap(), query);
    assert_eq!(BuildQuery::default().encode(), "");
}

#[test]
fn arguments_without_a_value_are_left_out() {
    let query = parse("buildargs=%7B%22Q%22%3A%221%22%2C%22V%22%3Anull%7D").unwrap();
    let request =
        query.into_request(ContextInput::Empty, BTreeMap::new(), &BuildDefaults::default());
    assert_eq!(request.build_args, [("Q".to_owned(), "1".to_owned())].into());
}
