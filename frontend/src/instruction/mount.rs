//! `RUN --mount` and `--device`: fields first, then, once variables have values, their meaning.

use std::ops::Range;

use smol_str::StrExt;

use crate::ast::{MountField, MountFlag, Word};
use crate::check::parse_bool;
use crate::nearest::did_you_mean;
use crate::words::Lexer;
use crate::{CacheSharing, Diagnostic};

use super::Typing;

/// The `type=` of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MountType {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

const TYPES: [(&str, MountType); 5] = [
    ("bind", MountType::Bind),
    ("cache", MountType::Cache),
    ("tmpfs", MountType::Tmpfs),
    ("secret", MountType::Secret),
    ("ssh", MountType::Ssh),
];

const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "size",
    "id",
    "sharing",
    "mode",
    "uid",
    "gid",
];

/// A mount with its values expanded and checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountSpec {
    pub(crate) kind: MountType,
    pub(crate) from: Option<Word>,
    pub(crate) source: String,
    pub(crate) target: String,
    pub(crate) read_only: Option<bool>,
    pub(crate) required: bool,
    /// Bytes.
    pub(crate) size: Option<u64>,
    pub(crate) id: String,
    pub(crate) sharing: Option<CacheSharing>,
    pub(crate) env: Option<String>,
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

type Fault = Box<Diagnostic>;

#[expect(clippy::unnecessary_box_returns, reason = "what errors of this module are")]
fn fault(span: crate::Span, message: impl Into<String>) -> Fault {
    Box::new(Diagnostic::error(span, message))
}

impl MountFlag {
    /// Returns the `from=` of the mount: it takes no variables, so it is known before lowering.
    pub(crate) fn from(&self) -> Option<&Word> {
        let from = self.fields.iter().rev().find(|field| field.key.text == "from")?;
        from.value.as_ref().filter(|value| !value.text.is_empty())
    }

    /// Reads the fields, each value expanded by `expand`.
    pub(crate) fn evaluate(
        &self,
        mut expand: impl FnMut(&Word) -> Result<String, Fault>,
    ) -> Result<MountSpec, Fault> {
        let mut spec = MountSpec::default();
        for field in &self.fields {
            let value = match &field.value {
                Some(value) => Some((value, expand(value)?)),
                None => None,
            };
            spec.set(&field.key, value)?;
        }
        spec.check(self)?;
        Ok(spec)
    }
}

impl MountSpec {
    fn set(&mut self, key: &Word, value: Option<(&Word, String)>) -> Result<(), Fault> {
        let Some((word, value)) = value else { return self.set_bare(key) };
        let bad = || fault(word.span, format!("`{}` cannot be `{value}`", key.text));
        let boolean = || parse_bool(&value).ok_or_else(bad);
        match key.text.as_str() {
            "type" => self.kind = parse_type(word, &value)?,
            "from" => {
                let from = Word { text: value.into(), span: word.span };
                self.from = Some(from).filter(|from| !from.text.is_empty());
            }
            "source" | "src" => self.source = value,
            "target" | "dst" | "destination" => self.target = value,
            "readonly" | "ro" => self.read_only = Some(boolean()?),
            "readwrite" | "rw" => self.read_only = Some(!boolean()?),
            "required" => {
                self.only_for(key, &[MountType::Secret, MountType::Ssh])?;
                self.required = boolean()?;
            }
            "size" => {
                self.only_for(key, &[MountType::Tmpfs])?;
                self.size = Some(parse_size(&value).ok_or_else(|| {
                    Box::new(bad().with_help("write a number of bytes, or 64k, 64m, 1g"))
                })?);
            }
            "id" => self.id = value,
            "sharing" => self.sharing = Some(parse_sharing(word, &value)?),
            "env" => {
                self.only_for(key, &[MountType::Secret])?;
                self.env = Some(value);
            }
            "mode" => {
                let mode = parse_mode(&value);
                let octal = || Box::new(bad().with_help("write it in octal, such as 0400"));
                self.mode = Some(mode.ok_or_else(octal)?);
            }
            "uid" => self.uid = Some(value.parse().map_err(|_| bad())?),
            "gid" => self.gid = Some(value.parse().map_err(|_| bad())?),
            other => return Err(unknown_key(key, other)),
        }
        Ok(())
    }

    /// Sets a key that stands without value.
    fn set_bare(&mut self, key: &Word) -> Result<(), Fault> {
        match key.text.as_str() {
            "readonly" | "ro" => self.read_only = Some(true),
            "readwrite" | "rw" => self.read_only = Some(false),
            "required" => {
                self.only_for(key, &[MountType::Secret, MountType::Ssh])?;
                self.required = true;
            }
            known if KEYS.contains(&known) || known == "env" => {
                return Err(fault(key.span, format!("`{known}` lacks its value")));
            }
            other => return Err(unknown_key(key, other)),
        }
        Ok(())
    }

    fn only_for(&self, key: &Word, kinds: &[MountType]) -> Result<(), Fault> {
        if kinds.contains(&self.kind) {
            return Ok(());
        }
        let message = format!("a {} mount has no `{}`", self.kind.name(), key.text);
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        let help = format!("`type={}` must stand before it", names.join("` or `type="));
        Err(Box::new(Diagnostic::error(key.span, message).with_help(help)))
    }

    /// Checks what the fields mean together (`validateMount` of BuildKit).
    fn check(&self, flag: &MountFlag) -> Result<(), Fault> {
        let kind = self.kind;
        let at = |names: &[&str]| {
            let field = flag.fields.iter().find(|field| names.contains(&field.key.text.as_str()));
            field.map_or(flag.span, |field| field.key.span)
        };
        let refuse = |names: &[&str]| {
            Err(fault(at(names), format!("a {} mount has no `{}`", kind.name(), names[0])))
        };
        let is_owned = matches!(kind, MountType::Secret | MountType::Ssh | MountType::Cache);
        for (name, given) in [
            ("mode", self.mode.is_some()),
            ("uid", self.uid.is_some()),
            ("gid", self.gid.is_some()),
        ] {
            if given && !is_owned {
                return refuse(&[name]);
            }
        }
        if self.sharing.is_some() && kind != MountType::Cache {
            return refuse(&["sharing"]);
        }
        match kind {
            MountType::Secret => {
                if self.from.is_some() {
                    return refuse(&["from"]);
                }
                if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                    return Err(fault(flag.span, "a secret mount needs an `id` or a `target`"));
                }
                if !self.source.is_empty() && !self.id.is_empty() {
                    return Err(fault(
                        at(&["id"]),
                        "a secret mount takes `id` or `source`, not both",
                    ));
                }
            }
            MountType::Ssh if !self.source.is_empty() => return refuse(&["source", "src"]),
            MountType::Bind | MountType::Cache | MountType::Tmpfs | MountType::Ssh => {}
        }
        Ok(())
    }
}

impl MountType {
    pub(crate) fn name(self) -> &'static str {
        TYPES.iter().find(|(_, kind)| *kind == self).map_or("bind", |&(name, _)| name)
    }
}

impl Typing<'_, '_> {
    /// Splits the value of `--mount` into fields and checks what no variable can change.
    pub(super) fn mount(&mut self, value: &Word) -> Option<MountFlag> {
        let fields = match fields(value) {
            Ok(fields) => fields,
            Err(diagnostic) => {
                self.checks.out.push(*diagnostic);
                return None;
            }
        };
        let flag = MountFlag { fields, span: value.span };
        if let Some(from) = flag.from().filter(|from| has_variable(&from.text)) {
            let span = from.span;
            self.error(span, "`from` does not expand variables").help = Some(
                "name a stage: `ARG` before the first FROM, then `FROM $IMAGE AS name`".into(),
            );
            return None;
        }
        if flag.fields.iter().flat_map(|field| &field.value).any(|value| value.text.contains('$')) {
            return Some(flag);
        }
        let lexer = Lexer::new(self.escape);
        let plain = |word: &Word| match lexer.process(&word.text, &()) {
            Ok(expansion) => Ok(expansion.text),
            Err(error) => Err(fault(word.part(error.range), error.message)),
        };
        if let Err(diagnostic) = flag.evaluate(plain) {
            self.value_fault(*diagnostic);
        }
        Some(flag)
    }
}

fn has_variable(text: &str) -> bool {
    text.find('$').is_some_and(|at| at + 1 < text.len())
}

#[expect(clippy::unnecessary_box_returns, reason = "what errors of this module are")]
fn unknown_key(key: &Word, name: &str) -> Fault {
    let diagnostic = Diagnostic::error(key.span, format!("a mount has no `{name}`"));
    let known = KEYS.iter().copied().chain(["env"]);
    Box::new(match did_you_mean(name, known) {
        Some(help) => diagnostic.with_help(help),
        None => diagnostic.with_help("fields are parted by commas: type=cache,target=/x"),
    })
}

fn parse_type(word: &Word, value: &str) -> Result<MountType, Fault> {
    let lower = value.to_ascii_lowercase();
    if let Some(&(_, kind)) = TYPES.iter().find(|(name, _)| *name == lower) {
        return Ok(kind);
    }
    let diagnostic = Diagnostic::error(word.span, format!("there is no mount type `{value}`"));
    let names = TYPES.iter().map(|&(name, _)| name);
    Err(Box::new(match did_you_mean(&lower, names) {
        Some(help) => diagnostic.with_help(help),
        None => diagnostic.with_help("expected bind, cache, tmpfs, secret or ssh"),
    }))
}

fn parse_sharing(word: &Word, value: &str) -> Result<CacheSharing, Fault> {
    match value.to_ascii_lowercase().as_str() {
        "shared" => Ok(CacheSharing::Shared),
        "private" => Ok(CacheSharing::Private),
        "locked" => Ok(CacheSharing::Locked),
        _ => {
            let message = format!("`sharing` cannot be `{value}`");
            let help = "expected shared, private or locked";
            Err(Box::new(Diagnostic::error(word.span, message).with_help(help)))
        }
    }
}

fn parse_mode(value: &str) -> Option<u32> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    u32::from_str_radix(value, 8).ok().filter(|&mode| digits && mode <= 0o7777)
}

/// Reads a size as docker's units do: a number, perhaps with a fraction, and k, m, g, t or p of
/// 1024, perhaps with `b` or `ib` behind.
fn parse_size(value: &str) -> Option<u64> {
    let end = value.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(value.len());
    let (number, unit) = value.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 1_u128 << (10 * power);
    let whole: u128 = whole.parse().ok()?;
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let decimals = u32::try_from(fraction.len()).ok()?;
    let bytes = whole.checked_mul(scale)?.checked_add(part * scale / 10_u128.pow(decimals))?;
    u64::try_from(bytes).ok()
}

/// Splits comma-separated fields; a field may be quoted as in CSV, `""` standing for a quote.
fn fields(value: &Word) -> Result<Vec<MountField>, Fault> {
    let mut fields = Vec::new();
    for (text, range) in csv(value)? {
        let (key, field_value) = match text.split_once('=') {
            Some((key, field_value)) => (key, Some(field_value)),
            None => (text.as_str(), None),
        };
        let exact = range.len() == text.len();
        let place = |part: Range<usize>| {
            let within = range.start + part.start..range.start + part.end;
            value.part(if exact { within } else { range.clone() })
        };
        let span = place(0..key.len());
        let key_word = Word { text: key.to_ascii_lowercase_smolstr(), span };
        let field_value = field_value.map(|field_value| Word {
            text: field_value.into(),
            span: place(text.len() - field_value.len()..text.len()),
        });
        fields.push(MountField { key: key_word, value: field_value });
    }
    Ok(fields)
}

fn csv(value: &Word) -> Result<Vec<(String, Range<usize>)>, Fault> {
    let text = value.text.as_str();
    if text.is_empty() {
        return Err(fault(value.span, "the flag names no field"));
    }
    let mut fields = Vec::new();
    let mut at = 0;
    loop {
        let start = at;
        if let Some(body) = text[at..].strip_prefix('"') {
            let mut field = String::new();
            let mut chars = body.char_indices().peekable();
            let end = loop {
                match chars.next() {
                    Some((_, '"')) if matches!(chars.peek(), Some((_, '"'))) => {
                        field.push('"');
                        chars.next();
                    }
                    Some((end, '"')) => break at + 1 + end + 1,
                    Some((_, other)) => field.push(other),
                    None => return Err(fault(value.span, "a quote in the mount is never closed")),
                }
            };
            fields.push((field, start..end));
            at = end;
        } else {
            let end = text[at..].find(',').map_or(text.len(), |length| at + length);
            if let Some(quote) = text[at..end].find('"') {
                let span = value.part(at + quote..at + quote + 1);
                let help = "quote the whole field, and double each quote within it";
                return Err(Box::new(
                    Diagnostic::error(span, "a quote stands within a field").with_help(help),
                ));
            }
            fields.push((text[at..end].to_owned(), start..end));
            at = end;
        }
        match text[at..].chars().next() {
            Some(',') => at += 1,
            None => return Ok(fields),
            Some(_) => {
                let span = value.part(at..text.len());
                return Err(fault(span, "expected a comma behind the quoted field"));
            }
        }
    }
}

/// Checks the value of `--device`: a CDI name, or `name=` and `required`.
pub(super) fn check_device(value: &Word) -> Result<(), Fault> {
    let mut named = false;
    for field in fields(value)? {
        match (field.key.text.as_str(), &field.value) {
            ("required", None) => {}
            ("required", Some(given)) if parse_bool(&given.text).is_some() => {}
            ("required", Some(given)) => {
                let message = format!("`required` cannot be `{}`", given.text);
                return Err(fault(given.span, message));
            }
            // `name=`, or the name alone.
            _ if !named => named = true,
            (other, _) => {
                return Err(fault(field.key.span, format!("a device has no `{other}`")));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Span;

    fn evaluate(text: &str) -> Result<MountSpec, String> {
        let word = Word { text: text.into(), span: Span::new(0, text.len()) };
        let fields = fields(&word).map_err(|fault| fault.message)?;
        let flag = MountFlag { fields, span: word.span };
        flag.evaluate(|word| Ok(word.text.to_string())).map_err(|fault| fault.message)
    }

    #[test]
    fn mounts() {
        #[rustfmt::skip]
        let cases = [
            ("bind",              "target=/x",                              None),
            ("cache",             "type=cache,target=/x,sharing=locked",    None),
            ("cache with owner",  "type=cache,dst=/x,uid=1,gid=2,mode=0700", None),
            ("tmpfs",             "type=tmpfs,target=/x,size=64m",          None),
            ("secret",            "type=secret,id=a,required",              None),
            ("ssh",               "type=ssh",                               None),
            ("quoted field",      r#"target=/x,"source=a,b""#,              None),
            ("upper-case key",    "TYPE=cache,TARGET=/x",                   None),
            ("unknown type",      "type=cach,target=/x",                    Some("there is no mount type `cach`")),
            ("unknown key",       "tpye=cache",                             Some("a mount has no `tpye`")),
            ("no value",          "target",                                 Some("`target` lacks its value")),
            ("bad sharing",       "type=cache,target=/x,sharing=no",        Some("`sharing` cannot be `no`")),
            ("sharing of bind",   "target=/x,sharing=shared",               Some("a bind mount has no `sharing`")),
            ("size of cache",     "type=cache,size=1m",                     Some("a cache mount has no `size`")),
            ("bad mode",          "type=cache,target=/x,mode=9",            Some("`mode` cannot be `9`")),
            ("mode of bind",      "target=/x,mode=0700",                    Some("a bind mount has no `mode`")),
            ("required of bind",  "target=/x,required",                     Some("a bind mount has no `required`")),
            ("secret without id", "type=secret",                            Some("a secret mount needs an `id` or a `target`")),
            ("secret from",       "type=secret,id=a,from=b",                Some("a secret mount has no `from`")),
            ("open quote",        r#""target=/x"#,                          Some("a quote in the mount is never closed")),
            ("quote within",      r#"target="/x""#,                         Some("a quote stands within a field")),
            ("nothing",           "",                                       Some("the flag names no field")),
            ("behind the quote",  r#""target=/x"y"#,                        Some("expected a comma behind the quoted field")),
            ("bad bool",          "target=/x,rw=maybe",                     Some("`rw` cannot be `maybe`")),
        ];
        for (name, text, want) in cases {
            assert_eq!(evaluate(text).err().as_deref(), want, "{name}");
        }
    }

    #[test]
    fn sizes() {
        #[rustfmt::skip]
        let cases = [
            ("0", Some(0)), ("512", Some(512)), ("1k", Some(1024)), ("1.5m", Some(1_572_864)),
            ("2GiB", Some(2 << 30)), ("1 gb", Some(1 << 30)), ("x", None), ("1q", None), ("-1", None),
        ];
        for (text, want) in cases {
            assert_eq!(parse_size(text), want, "{text}");
        }
    }
}
