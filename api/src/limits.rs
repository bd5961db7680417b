//! Limits of steps as people, configuration files and Docker's API write them.

use std::time::Duration;

use builder::{Bound, CpuTime, Limits, Ulimit};
use serde::{Deserialize, Serialize};

/// Parses a size in bytes with an optional unit of 1024: `512m`, `2g`, `1.5GiB` (Docker's
/// `--memory`).
///
/// # Errors
///
/// A sentence.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size such as 512m or 2g");
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[number.len()..].to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err(wrong()),
    };
    scaled(number, 1 << shift).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

/// As [`bytes()`]; `-1` and `unlimited` lift the limit.
pub(crate) fn bytes_or_unlimited(text: &str) -> Result<Bound, String> {
    if matches!(text, "-1" | "unlimited") {
        Ok(Bound::Unlimited)
    } else {
        bytes(text).map(Bound::At)
    }
}

/// Parses a number of processes; `-1`, `0` and `unlimited` lift the limit, as in Docker.
pub(crate) fn count_or_unlimited(text: &str) -> Result<Bound, String> {
    match text {
        "-1" | "0" | "unlimited" => Ok(Bound::Unlimited),
        _ => text.parse().map(Bound::At).map_err(|_| format!("`{text}` is not a number")),
    }
}

/// Parses a number of processors, such as `1.5`.
pub(crate) fn cpus(text: &str) -> Result<CpuTime, String> {
    let wrong = || format!("`{text}` is not a number of processors such as 1.5");
    let period_micros = CpuTime::PERIOD_MICROS;
    // The kernel takes no quota below a millisecond (cpu.cfs_quota_us).
    let quota_micros = scaled(text, period_micros).filter(|quota| *quota >= 1000);
    Ok(CpuTime { quota_micros: quota_micros.ok_or_else(wrong)?, period_micros })
}

/// Parses wall time: seconds, or `90s`, `10m`, `1h30m`, `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time such as 90s or 10m");
    if let Ok(seconds) = text.parse::<u64>() {
        return (seconds > 0).then(|| Duration::from_secs(seconds)).ok_or_else(wrong);
    }
    let (mut total, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(unit_at);
        let (unit, tail) = tail.split_at(1);
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86400,
            _ => return Err(wrong()),
        };
        let number = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
        total = number.and_then(|number| total.checked_add(number)).ok_or_else(wrong)?;
        rest = tail;
    }
    (total > 0).then(|| Duration::from_secs(total)).ok_or_else(wrong)
}

/// Parses `NAME=SOFT[:HARD]`; -1 is unlimited (Docker's `--ulimit`).
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, String> {
    let wrong = || format!("`{text}` is not NAME=SOFT[:HARD], such as nofile=1024:4096");
    let (name, value) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        _ => text.parse::<u64>().map(Some).map_err(|_| wrong()),
    };
    named_ulimit(name, number(soft)?, number(hard)?)
}

/// Checks what can be checked before a step runs.
fn named_ulimit(name: &str, soft: Option<u64>, hard: Option<u64>) -> Result<Ulimit, String> {
    if !builder::ULIMIT_NAMES.contains(&name) {
        let names = builder::ULIMIT_NAMES.join(", ");
        return Err(format!("there is no ulimit `{name}`; there are {names}"));
    }
    if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
        return Err(format!("ulimit `{name}`: the soft limit is above the hard one"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// A list of numbers and ranges such as `0-2,7` (cpuset(7), "List format").
pub(crate) fn set(text: &str) -> Result<String, String> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let is_part = |part: &str| match part.split_once('-') {
        Some((first, last)) => is_number(first) && is_number(last),
        None => is_number(part),
    };
    let is_list = text.split(',').all(is_part);
    is_list.then(|| text.to_owned()).ok_or_else(|| format!("`{text}` is not a list such as 0-2,7"))
}

/// Multiplies a decimal number, without rounding errors for what people write.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let fraction = &fraction[..fraction.len().min(9)];
    let part = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    let part = part * u128::from(unit) / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

/// `[run.limits]`: what a step may have at most, and has where nothing is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(crate) struct LimitsTable {
    memory: Option<Text>,
    memory_swap: Option<Text>,
    cpus: Option<Text>,
    pids: Option<Text>,
    shm_size: Option<Text>,
    timeout: Option<Text>,
}

impl LimitsTable {
    /// # Errors
    ///
    /// A sentence that names the key.
    pub(crate) fn limits(&self) -> Result<Limits, String> {
        fn read<T>(
            key: &str,
            value: Option<&Text>,
            parse: impl Fn(&str) -> Result<T, String>,
        ) -> Result<Option<T>, String> {
            let parsed = value.map(|value| parse(&value.0)).transpose();
            parsed.map_err(|reason| format!("[run.limits] {key}: {reason}"))
        }
        Ok(Limits {
            memory: read("memory", self.memory.as_ref(), bytes)?.map(Bound::At),
            memory_swap: read("memory-swap", self.memory_swap.as_ref(), bytes)?.map(Bound::At),
            cpu: read("cpus", self.cpus.as_ref(), cpus)?,
            pids: read("pids", self.pids.as_ref(), count_or_unlimited)?,
            shm_bytes: read("shm-size", self.shm_size.as_ref(), bytes)?,
            timeout: read("timeout", self.timeout.as_ref(), duration)?,
            ..Limits::default()
        })
    }
}

/// A number or a text: `cpus = 1.5`, `memory = "2g"`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Text(String),
            Whole(u64),
            Decimal(f64),
        }
        Ok(Self(match Written::deserialize(from)? {
            Written::Text(text) => text,
            Written::Whole(number) => number.to_string(),
            Written::Decimal(number) => number.to_string(),
        }))
    }
}

/// One of `ulimits` in `POST /build` (Docker Engine API, "Ulimit").
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UlimitItem {
    name: String,
    soft: i64,
    hard: i64,
}

/// Sets one limit from a parameter of `POST /build`; false if `name` is none of them. Values that
/// ask for nothing (empty, 0, null) leave the default.
///
/// # Errors
///
/// A sentence.
pub(crate) fn set_parameter(limits: &mut Limits, name: &str, value: &str) -> Result<bool, String> {
    if matches!(name, "ulimits") {
        if value.is_empty() {
            return Ok(true);
        }
        let items: Option<Vec<UlimitItem>> =
            serde_json::from_str(value).map_err(|error| error.to_string())?;
        let ulimits = items.unwrap_or_default().into_iter().map(|item| {
            let number = |value: i64| u64::try_from(value).ok();
            named_ulimit(&item.name, number(item.soft), number(item.hard))
        });
        limits.ulimits = ulimits.collect::<Result<_, _>>()?;
        return Ok(true);
    }
    let is_nothing = matches!(value, "" | "0");
    let number = || match value.parse::<u64>() {
        Ok(number) => Ok(Some(number).filter(|number| *number > 0)),
        Err(_) => Err(format!("`{value}` is not a number")),
    };
    let bound =
        || if value == "-1" { Ok(Some(Bound::Unlimited)) } else { Ok(number()?.map(Bound::At)) };
    let text = || if is_nothing && value.is_empty() { Ok(None) } else { set(value).map(Some) };
    let (quota, period) = match limits.cpu {
        Some(cpu) => (cpu.quota_micros, cpu.period_micros),
        None => (0, 0),
    };
    match name {
        "memory" => limits.memory = bound_of(is_nothing, bound)?,
        "memswap" => limits.memory_swap = bound_of(is_nothing, bound)?,
        "pidslimit" => limits.pids = bound_of(is_nothing, bound)?,
        "cpushares" => limits.cpu_shares = bound_of(is_nothing, number)?,
        "shmsize" => limits.shm_bytes = bound_of(is_nothing, number)?,
        "cpusetcpus" => limits.cpuset_cpus = text()?,
        "cpusetmems" => limits.cpuset_mems = text()?,
        "timeout" if !is_nothing => limits.timeout = Some(duration(value)?),
        "timeout" => {}
        // Either may come first, and a quota of -1 is none.
        "cpuquota" if matches!(value, "" | "-1") => {}
        "cpuperiod" if value.is_empty() => {}
        "cpuquota" => limits.cpu = pair(number()?.unwrap_or(0), period),
        "cpuperiod" => limits.cpu = pair(quota, number()?.unwrap_or(0)),
        _ => return Ok(false),
    }
    Ok(true)
}

fn bound_of<T>(
    is_nothing: bool,
    read: impl FnOnce() -> Result<Option<T>, String>,
) -> Result<Option<T>, String> {
    if is_nothing { Ok(None) } else { read() }
}

/// A quota without a period or a period without a quota, until the other one comes.
fn pair(quota_micros: u64, period_micros: u64) -> Option<CpuTime> {
    (quota_micros > 0 || period_micros > 0).then_some(CpuTime { quota_micros, period_micros })
}

/// Fills in the default period, and drops a period without a quota, which bounds nothing.
pub(crate) fn settle(limits: &mut Limits) {
    limits.cpu = limits.cpu.filter(|cpu| cpu.quota_micros > 0).map(|cpu| CpuTime {
        period_micros: if cpu.period_micros == 0 {
            CpuTime::PERIOD_MICROS
        } else {
            cpu.period_micros
        },
        ..cpu
    });
}

/// The parameters that [`set_parameter`] reads back as `limits`.
pub(crate) fn parameters(limits: &Limits) -> Vec<(&'static str, String)> {
    let bound = |bound: Option<Bound>| match bound? {
        Bound::At(value) => Some(value.to_string()),
        Bound::Unlimited => Some("-1".to_owned()),
    };
    let item = |ulimit: &Ulimit| {
        let number = |value: Option<u64>| value.and_then(|it| i64::try_from(it).ok()).unwrap_or(-1);
        let (soft, hard) = (number(ulimit.soft), number(ulimit.hard));
        UlimitItem { name: ulimit.name.clone(), soft, hard }
    };
    let items: Vec<UlimitItem> = limits.ulimits.iter().map(item).collect();
    let items = (!items.is_empty())
        .then(|| serde_json::to_string(&items).expect("a list of names and numbers is JSON"));
    let seconds = |time: Duration| time.as_secs().max(1).to_string();
    let all = [
        ("memory", bound(limits.memory)),
        ("memswap", bound(limits.memory_swap)),
        ("pidslimit", bound(limits.pids)),
        ("cpuquota", limits.cpu.map(|cpu| cpu.quota_micros.to_string())),
        ("cpuperiod", limits.cpu.map(|cpu| cpu.period_micros.to_string())),
        ("cpushares", limits.cpu_shares.map(|shares| shares.to_string())),
        ("cpusetcpus", limits.cpuset_cpus.clone()),
        ("cpusetmems", limits.cpuset_mems.clone()),
        ("shmsize", limits.shm_bytes.map(|bytes| bytes.to_string())),
        ("timeout", limits.timeout.map(seconds)),
        ("ulimits", items),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        #[rustfmt::skip]
        let cases = [
            ("1", Some(1)), ("512m", Some(512 << 20)), ("2g", Some(2 << 30)), ("1.5GiB", Some(3 << 29)),
            ("10KB", Some(10 << 10)), ("1b", Some(1)), ("0", None), ("-1", None), ("g", None), ("1x", None),
            ("1.2.3", None), ("", None), ("99999999999999999999t", None),
        ];
        for (text, want) in cases {
            assert_eq!(bytes(text).ok(), want, "{text}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(Bound::Unlimited));
        assert_eq!(count_or_unlimited("7"), Ok(Bound::At(7)));
        assert!(count_or_unlimited("x").is_err());
    }

    #[test]
    fn processors_times_and_sets_are_read() {
        let quota = |text| cpus(text).ok().map(|cpu| cpu.quota_micros);
        assert_eq!(
            [quota("1.5"), quota("2"), quota(".25")],
            [Some(150_000), Some(200_000), Some(25_000)]
        );
        assert_eq!([quota("0"), quota("0.001"), quota("-1"), quota("x")], [None; 4]);
        let seconds = |text| duration(text).ok().map(|time| time.as_secs());
        assert_eq!(
            [seconds("90"), seconds("10m"), seconds("1h30m")],
            [Some(90), Some(600), Some(5400)]
        );
        assert_eq!([seconds("0"), seconds("5y"), seconds("m"), seconds("")], [None; 4]);
        assert!(set("0-2,7").is_ok() && set("0").is_ok());
        assert!(set("0,").is_err() && set("a").is_err() && set("-1").is_err());
    }

    #[test]
    fn ulimits_are_read() {
        let ulimit_of = |name: &str, soft, hard| Ulimit { name: name.into(), soft, hard };
        assert_eq!(ulimit("nofile=10:20"), Ok(ulimit_of("nofile", Some(10), Some(20))));
        assert_eq!(ulimit("core=0"), Ok(ulimit_of("core", Some(0), Some(0))));
        assert_eq!(ulimit("nproc=5:-1"), Ok(ulimit_of("nproc", Some(5), None)));
        for wrong in ["nofile", "nofile=x", "files=1", "nofile=2:1", "nofile=-1:5"] {
            assert!(ulimit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parameters_are_read_back() {
        let limits = Limits {
            memory: Some(Bound::At(5)),
            memory_swap: Some(Bound::Unlimited),
            cpu: Some(CpuTime { quota_micros: 50_000, period_micros: 70_000 }),
            cpu_shares: Some(512),
            cpuset_cpus: Some("0-1".into()),
            cpuset_mems: Some("0".into()),
            pids: Some(Bound::At(9)),
            shm_bytes: Some(1 << 20),
            ulimits: vec![Ulimit { name: "nofile".into(), soft: Some(1), hard: None }],
            timeout: Some(Duration::from_secs(61)),
        };
        let mut got = Limits::default();
        for (name, value) in parameters(&limits) {
            assert_eq!(set_parameter(&mut got, name, &value), Ok(true), "{name}={value}");
        }
        settle(&mut got);
        assert_eq!(got, limits);
        assert_eq!(parameters(&Limits::default()), []);

        let mut got = Limits::default();
        for name in
            ["memory", "memswap", "cpuquota", "cpuperiod", "shmsize", "timeout", "pidslimit"]
        {
            assert_eq!(set_parameter(&mut got, name, "0"), Ok(true), "{name}");
        }
        assert_eq!(set_parameter(&mut got, "ulimits", "null"), Ok(true));
        settle(&mut got);
        assert_eq!(got, Limits::default());
        assert_eq!(set_parameter(&mut got, "colour", "red"), Ok(false));
        assert!(set_parameter(&mut got, "memory", "much").is_err());
    }

    #[test]
    fn a_table_takes_numbers_and_texts() {
        let table: LimitsTable =
            toml::from_str("memory = \"2g\"\ncpus = 1.5\npids = 100\n").unwrap();
        let limits = table.limits().unwrap();
        assert_eq!(limits.memory, Some(Bound::At(2 << 30)));
        assert_eq!(limits.cpu.map(|cpu| cpu.quota_micros), Some(150_000));
        assert_eq!(limits.pids, Some(Bound::At(100)));
        let table: LimitsTable = toml::from_str("timeout = \"never\"\n").unwrap();
        assert!(table.limits().unwrap_err().starts_with("[run.limits] timeout: "));
    }
}
