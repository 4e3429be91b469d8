//! A site's commands: an argument list with places for a task's values. Pure; starts nothing.
//!
//! There is no shell. A value becomes a part of one argument, whatever characters it has: it is never split, and it
//! never becomes an option unless the site says that it may.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::names::TemplateName;
use super::spec::CommandSpec;

/// The commands of a site, by name.
pub type Templates = BTreeMap<TemplateName, Template>;

/// A command as the configuration has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTemplate {
    /// The program's file, an absolute path.
    pub program: PathBuf,
    /// Its arguments, with `{name}` where a value goes; `{{` and `}}` are braces.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// The longest that it may take, in seconds.
    pub time_limit_s: u64,
    /// Variables beside those that every task has.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Whether an argument may begin with a value that begins with a dash, and so pass for an option.
    #[serde(default)]
    pub allow_dash: bool,
    /// Values that are paths, and what the command does with them: they are held against the roots, and become what
    /// they lead to.
    #[serde(default)]
    pub paths: BTreeMap<String, Access>,
}

/// What is to be done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Read it.
    Read,
    /// Write it, or below it.
    Write,
}

/// A command that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawTemplate")]
pub struct Template {
    program: PathBuf,
    arguments: Vec<Argument>,
    time_limit: Duration,
    environment: BTreeMap<String, String>,
    dash: Dash,
    paths: BTreeMap<String, Access>,
}

/// An argument, its pieces in their order.
type Argument = Vec<Piece>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Piece {
    Text(String),
    Value(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Dash {
    Refused,
    Allowed,
}

/// A command that can be started as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rendered {
    /// The command's name.
    pub name: TemplateName,
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Variables beside those that every task has.
    pub environment: BTreeMap<String, String>,
    /// The longest that it may take.
    pub time_limit: Duration,
}

/// A command that the configuration has wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TemplateError {
    /// Which program it would be depends on who starts it.
    #[error("program {} is no absolute path; give it from the root directory on", program.display())]
    Program {
        /// As given.
        program: PathBuf,
    },
    /// A brace that neither opens nor closes a name.
    #[error(
        "argument {argument:?}: {found:?} is not a place for a value; \
         write {{name}} with a-z, 0-9 and _, or {{{{ and }}}} for braces"
    )]
    Place {
        /// The argument.
        argument: String,
        /// From the brace on.
        found: String,
    },
    /// NUL ends a text for the system.
    #[error("{what} has a NUL character; leave it out")]
    Nul {
        /// Where.
        what: String,
    },
    /// A name that the system cannot have.
    #[error("environment: {name:?} is no name of a variable; leave out '=' and NUL")]
    Variable {
        /// The name.
        name: String,
    },
    /// It could never run.
    #[error("time_limit_s is 0; give the seconds that the command may take")]
    NoTime,
    /// A value that is nowhere.
    #[error("paths: no argument has a place for {{{name}}}; name values of the arguments")]
    Path {
        /// The value's name.
        name: String,
    },
}

/// Values that do not fit a command.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RenderError {
    /// No such command.
    #[error("there is no command {name:?} at this endpoint; known are: {known}")]
    Command {
        /// Which.
        name: String,
        /// Those that are there.
        known: String,
    },
    /// A place without a value.
    #[error("command {command}: the value {name:?} is missing")]
    Missing {
        /// The command.
        command: TemplateName,
        /// Its place.
        name: String,
    },
    /// A value without a place.
    #[error("command {command}: the value {name:?} is unknown; it takes: {known}")]
    Unknown {
        /// The command.
        command: TemplateName,
        /// The value's name.
        name: String,
        /// Those that it takes.
        known: String,
    },
    /// NUL ends a text for the system.
    #[error("command {command}: the value {name:?} has a NUL character; leave it out")]
    Nul {
        /// The command.
        command: TemplateName,
        /// The value's name.
        name: String,
    },
    /// A value that would pass for an option.
    #[error(
        "command {command}: the value {name:?} would make an argument begin with '-', an option; \
         give another, or set allow_dash in the endpoint's configuration"
    )]
    Dash {
        /// The command.
        command: TemplateName,
        /// The name of the value that the argument begins with.
        name: String,
    },
}

impl TryFrom<RawTemplate> for Template {
    type Error = TemplateError;

    fn try_from(raw: RawTemplate) -> Result<Self, TemplateError> {
        let RawTemplate { program, arguments, time_limit_s, environment, allow_dash, paths } = raw;
        if !program.is_absolute() {
            return Err(TemplateError::Program { program });
        }
        if program.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(TemplateError::Nul { what: "program".to_owned() });
        }
        if time_limit_s == 0 {
            return Err(TemplateError::NoTime);
        }
        for (name, value) in &environment {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(TemplateError::Variable { name: name.clone() });
            }
            if value.contains('\0') {
                return Err(TemplateError::Nul { what: format!("environment: {name}") });
            }
        }
        let arguments = arguments.iter().map(|argument| pieces(argument)).collect::<Result<_, _>>()?;
        let dash = if allow_dash { Dash::Allowed } else { Dash::Refused };
        let time_limit = Duration::from_secs(time_limit_s);
        let template = Self { program, arguments, time_limit, environment, dash, paths };
        let places = template.places();
        match template.paths.keys().find(|name| !places.contains(&name.as_str())) {
            Some(name) => Err(TemplateError::Path { name: name.clone() }),
            None => Ok(template),
        }
    }
}

impl Template {
    /// The command with a task's values in it. The shorter of both time limits counts.
    ///
    /// # Errors
    /// See [`RenderError`].
    pub fn render(&self, spec: &CommandSpec) -> Result<Rendered, RenderError> {
        let command = || spec.template.clone();
        let places = self.places();
        if let Some(name) = spec.values.keys().find(|name| !places.contains(&name.as_str())) {
            let known = if places.is_empty() { "none".to_owned() } else { places.join(", ") };
            return Err(RenderError::Unknown { command: command(), name: name.clone(), known });
        }
        if let Some((name, _)) = spec.values.iter().find(|(_, value)| value.contains('\0')) {
            return Err(RenderError::Nul { command: command(), name: name.clone() });
        }
        let arguments =
            self.arguments.iter().map(|argument| self.argument(argument, spec)).collect::<Result<_, _>>()?;
        Ok(Rendered {
            name: command(),
            program: self.program.clone(),
            arguments,
            environment: self.environment.clone(),
            time_limit: spec.time_limit.map_or(self.time_limit, |limit| limit.min(self.time_limit)),
        })
    }

    /// Values that are paths, and what the command does with them.
    pub fn paths(&self) -> &BTreeMap<String, Access> {
        &self.paths
    }

    /// The names of the values that it takes, each once, in the order of the arguments.
    pub fn places(&self) -> Vec<&str> {
        let mut places: Vec<&str> = Vec::new();
        for piece in self.arguments.iter().flatten() {
            match piece {
                Piece::Value(name) if !places.contains(&name.as_str()) => places.push(name),
                Piece::Value(_) | Piece::Text(_) => {}
            }
        }
        places
    }

    fn argument(&self, pieces: &[Piece], spec: &CommandSpec) -> Result<String, RenderError> {
        let command = || spec.template.clone();
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(words) => text.push_str(words),
                Piece::Value(name) => match spec.values.get(name) {
                    Some(value) => text.push_str(value),
                    None => return Err(RenderError::Missing { command: command(), name: name.clone() }),
                },
            }
        }
        match (pieces.first(), self.dash) {
            // the whole argument is looked at: after an empty value the next one begins it
            (Some(Piece::Value(name)), Dash::Refused) if text.starts_with('-') => {
                Err(RenderError::Dash { command: command(), name: name.clone() })
            }
            _ => Ok(text),
        }
    }
}

/// The command that a task asks for.
///
/// # Errors
/// See [`RenderError`].
pub fn render(templates: &Templates, spec: &CommandSpec) -> Result<Rendered, RenderError> {
    let template = templates.get(&spec.template).ok_or_else(|| {
        let known: Vec<_> = templates.keys().map(TemplateName::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        RenderError::Command { name: spec.template.to_string(), known }
    })?;
    template.render(spec)
}

/// An argument cut at its places.
fn pieces(argument: &str) -> Result<Argument, TemplateError> {
    if argument.contains('\0') {
        return Err(TemplateError::Nul { what: format!("argument {argument:?}") });
    }
    let refused = |found: &str| TemplateError::Place { argument: argument.to_owned(), found: found.to_owned() };
    let (mut pieces, mut text, mut rest) = (Vec::new(), String::new(), argument);
    while let Some(at) = rest.find(['{', '}']) {
        text.push_str(&rest[..at]);
        let found = &rest[at..];
        if let Some(brace) = ["{{", "}}"].iter().find(|brace| found.starts_with(**brace)) {
            text.push_str(&brace[1..]);
            rest = &found[2..];
            continue;
        }
        let (name, after) =
            found.strip_prefix('{').and_then(|name| name.split_once('}')).ok_or_else(|| refused(found))?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
            return Err(refused(found));
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Value(name.to_owned()));
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw(arguments: &[&str]) -> RawTemplate {
        RawTemplate {
            program: "/usr/bin/plot".into(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            time_limit_s: 60,
            environment: BTreeMap::new(),
            allow_dash: false,
            paths: BTreeMap::new(),
        }
    }

    fn spec(values: &[(&str, &str)]) -> CommandSpec {
        CommandSpec {
            template: "plot".parse().expect("a name"),
            values: values.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            time_limit: None,
        }
    }

    fn rendered(arguments: &[&str], values: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let template = Template::try_from(raw(arguments)).map_err(|error| error.to_string())?;
        template.render(&spec(values)).map(|command| command.arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn values_stay_in_their_argument() {
        let found = rendered(&["--in={file}", "{file}", "{{{n}}}", "x"], &[("file", "a b; rm -rf /"), ("n", "{file}")]);
        assert_eq!(found.expect("arguments"), ["--in=a b; rm -rf /", "a b; rm -rf /", "{{file}}", "x"]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (arguments, values, words) in [
            (&["{file}"][..], &[][..], "the value \"file\" is missing"),
            (&["{file}"], &[("file", ""), ("fil", "")], "the value \"fil\" is unknown; it takes: file"),
            (&["{file}"], &[("file", "a\0b")], "the value \"file\" has a NUL"),
            (&["{file}"], &[("file", "-rf")], "the value \"file\" would make an argument begin with '-'"),
            (&["{a}{b}"], &[("a", ""), ("b", "-rf")], "the value \"a\" would make an argument begin with '-'"),
            (&["{file"], &[], "\"{file\" is not a place"),
            (&["a}"], &[], "\"}\" is not a place"),
            (&["{}"], &[], "\"{}\" is not a place"),
            (&["{File}"], &[], "\"{File}\" is not a place"),
        ] {
            let error = rendered(arguments, values).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(rendered(&["--x={v}"], &[("v", "-1")]).expect("no option"), ["--x=-1"]);
    }

    #[test]
    fn the_site_says_where_dashes_are_no_danger() {
        let template = Template::try_from(RawTemplate { allow_dash: true, ..raw(&["{v}"]) }).expect("a template");
        assert_eq!(template.render(&spec(&[("v", "-1")])).expect("allowed").arguments, ["-1"]);
    }

    #[test]
    fn the_shorter_time_counts() {
        let template = Template::try_from(raw(&[])).expect("a template");
        for (asked, given) in [(None, 60), (Some(5), 5), (Some(500), 60)] {
            let spec = CommandSpec { time_limit: asked.map(Duration::from_secs), ..spec(&[]) };
            assert_eq!(template.render(&spec).expect("rendered").time_limit.as_secs(), given);
        }
    }

    #[test]
    fn a_configuration_that_cannot_work_is_refused() {
        for (text, words) in [
            (r#"{"program":"plot","time_limit_s":1}"#, "no absolute path"),
            (r#"{"program":"/plot","time_limit_s":0}"#, "time_limit_s is 0"),
            (r#"{"program":"/plot","time_limit_s":1,"environment":{"A=B":""}}"#, "\"A=B\" is no name"),
            (r#"{"program":"/plot","time_limit_s":1,"shell":"sh"}"#, "unknown field"),
            (r#"{"program":"/plot","time_limit_s":1,"paths":{"in":"read"}}"#, "no argument has a place for {in}"),
        ] {
            let error = serde_json::from_str::<Template>(text).expect_err(text).to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_unknown_command_is_named() {
        let templates: Templates =
            [("other".parse().expect("a name"), Template::try_from(raw(&[])).expect("a template"))].into();
        let error = render(&templates, &spec(&[])).expect_err("unknown").to_string();
        assert_eq!(error, "there is no command \"plot\" at this endpoint; known are: other");
    }

    /// A piece of an argument as a template's text, and what it is to become with the values.
    fn piece() -> impl Strategy<Value = Piece> {
        prop_oneof!["[^\0]{0,6}".prop_map(Piece::Text), "[a-c]".prop_map(Piece::Value)]
    }

    proptest! {
        #[test]
        fn arguments_are_what_the_pieces_say(
            arguments in proptest::collection::vec(proptest::collection::vec(piece(), 0..5), 0..5),
            values in proptest::collection::vec("[^\0]{0,8}", 3),
        ) {
            let value = |name: &str| values["abc".find(name).expect("a place")].clone();
            let source = |piece: &Piece| match piece {
                Piece::Text(text) => text.replace('{', "{{").replace('}', "}}"),
                Piece::Value(name) => format!("{{{name}}}"),
            };
            let texts: Vec<String> = arguments.iter().map(|pieces| pieces.iter().map(source).collect()).collect();
            let template = RawTemplate { arguments: texts, allow_dash: true, ..raw(&[]) };
            let template = Template::try_from(template).expect("a template");
            let values = template.places().into_iter().map(|name| (name.to_owned(), value(name))).collect();
            let found = template.render(&CommandSpec { values, ..spec(&[]) }).expect("rendered").arguments;
            let target = |piece: &Piece| match piece {
                Piece::Text(text) => text.clone(),
                Piece::Value(name) => value(name),
            };
            let wanted: Vec<String> = arguments.iter().map(|pieces| pieces.iter().map(target).collect()).collect();
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn no_value_makes_an_option(first in "[-a]{0,3}", second in "[-a]{0,3}", text in "[-a]{0,2}") {
            for argument in ["{a}", "{a}{b}", &format!("{{a}}{text}{{b}}")] {
                let template = Template::try_from(raw(&[argument, "{b}"])).expect("a template");
                if let Ok(command) = template.render(&spec(&[("a", &first), ("b", &second)])) {
                    prop_assert!(command.arguments.iter().all(|argument| !argument.starts_with('-')));
                }
            }
        }

        #[test]
        fn any_argument_is_read_or_refused(argument in "[{}a-c_A\0]*|.*") {
            let _ = pieces(&argument);
        }
    }
}
