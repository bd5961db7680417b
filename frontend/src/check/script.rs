//! Shell scripts as far as rules look at them: which commands there are, with which words, joined
//! by what.
//!
//! This is no shell: substitutions are kept as text and never entered, and a script with a quote
//! that does not close has no commands at all. Better to say nothing than something wrong.

mod word;

use std::ops::Range;

/// What stands between a command and the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joint {
    /// `;`, `&`, a line's end, or nothing: it is the first.
    Then,
    /// `&&`.
    And,
    /// `||`.
    Or,
    /// `|`.
    Pipe,
}

/// One word of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptWord {
    /// Without its quotes.
    pub(super) text: String,
    /// Where it stands in the script, quotes included.
    pub(super) range: Range<usize>,
    /// Its text is what the command gets: it holds no substitution and no unquoted pattern.
    pub(super) is_plain: bool,
    /// It has quotes or escapes.
    pub(super) is_quoted: bool,
}

impl ScriptWord {
    /// Whether the word names a file that ends in `.extension`.
    pub(super) fn has_extension(&self, extension: &str) -> bool {
        self.text.rsplit_once('.').is_some_and(|(_, end)| end == extension)
    }
}

/// One simple command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ScriptCommand {
    /// Its name and arguments; never empty.
    pub(super) words: Vec<ScriptWord>,
    /// What stands before it.
    pub(super) joint: Joint,
    /// It stands within no loop, condition, function or subshell.
    pub(super) is_outermost: bool,
    /// Its input or output is redirected.
    pub(super) is_redirected: bool,
}

/// The blocks that a script can be within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Paren,
    Brace,
    Case,
    Other,
}

/// Splits `text` into its commands, in order.
pub(super) fn split(text: &str) -> Vec<ScriptCommand> {
    let mut reader = Reader {
        text,
        at: 0,
        commands: Vec::new(),
        words: Vec::new(),
        joint: Joint::Then,
        blocks: Vec::new(),
        is_redirected: false,
        is_dropped: false,
        is_pattern: false,
        heredocs: Vec::new(),
    };
    match reader.run() {
        Some(()) => reader.commands,
        None => Vec::new(),
    }
}

struct Reader<'s> {
    text: &'s str,
    at: usize,
    commands: Vec<ScriptCommand>,
    words: Vec<ScriptWord>,
    joint: Joint,
    blocks: Vec<Block>,
    is_redirected: bool,
    /// The words read are no command: a loop's head, a pattern of `case`.
    is_dropped: bool,
    /// What follows is a pattern of `case`, up to its `)`.
    is_pattern: bool,
    /// Delimiters whose bodies begin at the next line, each with whether tabs may stand before it.
    heredocs: Vec<(String, bool)>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn starts(&self, text: &str) -> bool {
        self.text[self.at..].starts_with(text)
    }

    fn take(&mut self, text: &str) -> bool {
        let is_there = self.starts(text);
        if is_there {
            self.at += text.len();
        }
        is_there
    }

    /// Reads everything; `None` where a quote or substitution does not close.
    fn run(&mut self) -> Option<()> {
        while let Some(next) = self.peek() {
            if self.is_pattern {
                self.skip_pattern()?;
                continue;
            }
            match next {
                '\\' if self.take("\\\n") || self.take("\\\r\n") => {}
                ' ' | '\t' | '\r' => self.at += 1,
                '\n' => {
                    self.at += 1;
                    self.end(Joint::Then);
                    self.skip_heredocs();
                }
                '#' => self.skip_line(),
                ';' | '&' | '|' => self.operator()?,
                '(' => self.open(),
                ')' => self.close(),
                '<' | '>' => self.redirection()?,
                _ => self.word()?,
            }
        }
        self.end(Joint::Then);
        Some(())
    }

    /// Skips a pattern of `case`, if one follows.
    fn skip_pattern(&mut self) -> Option<()> {
        self.is_pattern = false;
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
        if !self.starts("esac") {
            self.at += self.text[self.at..].find(')')? + 1;
        }
        self.joint = Joint::Then;
        Some(())
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.find('\n').unwrap_or(rest.len());
    }

    fn operator(&mut self) -> Option<()> {
        if self.take("&&") {
            self.end(Joint::And);
        } else if self.take("||") {
            self.end(Joint::Or);
        } else if self.take("|&") || self.take("|") {
            self.end(Joint::Pipe);
        } else if self.take(";;") {
            self.end(Joint::Then);
            self.is_pattern = self.blocks.last() == Some(&Block::Case);
        } else if self.starts("&>") {
            self.at += 1;
            self.redirection()?;
        } else {
            self.at += 1;
            self.end(Joint::Then);
        }
        Some(())
    }

    fn open(&mut self) {
        self.at += 1;
        if self.words.is_empty() {
            self.blocks.push(Block::Paren);
        } else if !self.take(")") {
            // A pattern of `case` in parentheses, or what no shell takes.
            self.is_dropped = true;
        } else {
            // The head of a function.
            self.words.clear();
        }
    }

    fn close(&mut self) {
        self.at += 1;
        if self.blocks.last() == Some(&Block::Paren) {
            self.end(Joint::Then);
            self.blocks.pop();
        } else {
            // None is open: whatever this is, it is no command.
            self.is_dropped = true;
            self.end(Joint::Then);
        }
    }

    fn redirection(&mut self) -> Option<()> {
        self.is_redirected = true;
        if self.take("<<<") {
            return self.raw_word().map(drop);
        }
        if self.take("<<") {
            let chomps = self.take("-");
            let word = self.raw_word()?;
            self.heredocs.push((word.text, chomps));
            return Some(());
        }
        while matches!(self.peek(), Some('<' | '>' | '&' | '|')) {
            self.at += 1;
        }
        self.raw_word().map(drop)
    }

    fn skip_heredocs(&mut self) {
        for (delimiter, chomps) in std::mem::take(&mut self.heredocs) {
            while self.at < self.text.len() {
                let rest = &self.text[self.at..];
                let length = rest.find('\n').map_or(rest.len(), |at| at + 1);
                let line = rest[..length].trim_end_matches(['\r', '\n']);
                self.at += length;
                let line = if chomps { line.trim_start_matches('\t') } else { line };
                if line == delimiter {
                    break;
                }
            }
        }
    }

    /// Reads a word of a command and looks at what it means in its place.
    fn word(&mut self) -> Option<()> {
        let word = self.raw_word()?;
        let is_descriptor = matches!(self.peek(), Some('<' | '>'))
            && word.text.bytes().all(|byte| byte.is_ascii_digit());
        if is_descriptor {
            return self.redirection();
        }
        if self.words.is_empty() && is_assignment(&self.text[word.range.clone()]) {
            return Some(());
        }
        if self.words.is_empty() && !word.is_quoted {
            match word.text.as_str() {
                "if" | "while" | "until" => {
                    self.blocks.push(Block::Other);
                    return Some(());
                }
                "for" | "select" => {
                    self.blocks.push(Block::Other);
                    self.is_dropped = true;
                }
                "case" => {
                    self.blocks.push(Block::Case);
                    self.is_dropped = true;
                }
                "function" => self.is_dropped = true,
                "{" => {
                    self.blocks.push(Block::Brace);
                    return Some(());
                }
                "then" | "elif" | "else" | "do" | "!" | "time" => return Some(()),
                "fi" | "done" | "esac" | "}" => {
                    self.blocks.pop();
                    return Some(());
                }
                "[[" => return self.test(word.range.start),
                _ => {}
            }
        }
        let is_head = self.is_dropped && self.blocks.last() == Some(&Block::Case);
        if is_head && word.text == "in" && self.words.len() == 2 {
            self.end(Joint::Then);
            self.is_pattern = true;
            return Some(());
        }
        self.words.push(word);
        Some(())
    }

    /// Skips `[[ ... ]]`, whose operators join no commands.
    fn test(&mut self, start: usize) -> Option<()> {
        let length = self.text[self.at..].find("]]")?;
        self.at += length + 2;
        let text = "[[".to_owned();
        let range = start..self.at;
        self.words.push(ScriptWord { text, range, is_plain: false, is_quoted: false });
        Some(())
    }

    fn end(&mut self, next: Joint) {
        let words = std::mem::take(&mut self.words);
        let is_redirected = std::mem::take(&mut self.is_redirected);
        let is_dropped = std::mem::take(&mut self.is_dropped);
        if !words.is_empty() && !is_dropped {
            self.commands.push(ScriptCommand {
                words,
                joint: self.joint,
                is_outermost: self.blocks.is_empty(),
                is_redirected,
            });
        }
        self.joint = next;
    }
}

/// Whether a word sets a variable: `NAME=...`.
fn is_assignment(text: &str) -> bool {
    let Some((name, _)) = text.split_once('=') else { return false };
    let name = name.strip_suffix('+').unwrap_or(name);
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes commands as `joint name|argument|...`, inner ones in brackets.
    fn show(text: &str) -> String {
        let commands = split(text);
        let shown: Vec<String> = commands
            .iter()
            .map(|command| {
                let words: Vec<&str> = command.words.iter().map(|w| w.text.as_str()).collect();
                let joint = match command.joint {
                    Joint::Then => ";",
                    Joint::And => "&&",
                    Joint::Or => "||",
                    Joint::Pipe => "|",
                };
                let words = words.join(",");
                if command.is_outermost {
                    format!("{joint}{words}")
                } else {
                    format!("{joint}[{words}]")
                }
            })
            .collect();
        shown.join(" ")
    }

    #[test]
    fn commands() {
        #[rustfmt::skip]
        let cases = [
            ("one",             "apt-get update",                      ";apt-get,update"),
            ("joints",          "a && b || c ; d | e & f",             ";a &&b ||c ;d |e ;f"),
            ("quotes",          r#"echo "a b" 'c d' e\ f"#,            ";echo,a b,c d,e f"),
            ("operator quoted", "echo 'a && b' \"c | d\"",             ";echo,a && b,c | d"),
            ("assignments",     "A=1 B='x y' apt-get update",          ";apt-get,update"),
            ("only assigned",   "A=$(curl x | sh) && b",               "&&b"),
            ("redirections",    "a > f 2>&1 < g >>h b",                ";a,b"),
            ("both outputs",    "a &> f && b",                         ";a &&b"),
            ("substitutions",   "a $(b && c) `d; e` ${f:-g h}",        ";a,$(b && c),`d; e`,${f:-g h}"),
            ("arithmetic",      "a $((1 + 2)) b",                      ";a,$((1 + 2)),b"),
            ("comment",         "a # b && c",                          ";a"),
            ("lines",           "a\nb \\\n  c\n\nd",                   ";a ;b,c ;d"),
            ("condition",       "if a; then b; else c; fi && d",       ";[a] ;[b] ;[c] &&d"),
            ("loop",            "for i in a b; do c $i; done",         ";[c,$i]"),
            ("while",           "while a | b; do c; done",             ";[a] |[b] ;[c]"),
            ("case",            "case \"$a\" in x) b ;; y|z) c ;; esac; d", ";[b] ;[c] ;d"),
            ("subshell",        "( a && b ) && c",                     ";[a] &&[b] &&c"),
            ("group",           "{ a; b; } | c",                       ";[a] ;[b] |c"),
            ("function",        "f() { a; }; f",                       ";[a] ;f"),
            ("test",            "[[ a && b ]] && c",                   ";[[ &&c"),
            ("negation",        "! a && time b",                       ";a &&b"),
            ("heredoc",         "cat <<E > f\nrm -rf && x\nE\na",      ";cat ;a"),
            ("here string",     "a <<< 'b c' d",                       ";a,d"),
            ("unclosed",        "echo 'a && apt-get update",           ""),
            ("unclosed $(",     "echo $(a && b",                       ""),
            ("empty",           "",                                    ""),
            ("word with hash",  "a b#c",                               ";a,b#c"),
        ];
        for (name, text, want) in cases {
            assert_eq!(show(text), want, "{name}");
        }
    }

    #[test]
    fn plain_words() {
        let command = split("a $b \"$c\" '$d' *.e f~g ~h \"i j\" k=1").remove(0);
        let plain: Vec<bool> = command.words.iter().map(|word| word.is_plain).collect();
        assert_eq!(plain, [true, false, false, true, false, true, false, true, true]);
        for word in &command.words {
            assert!(!word.range.is_empty());
        }
    }
}
