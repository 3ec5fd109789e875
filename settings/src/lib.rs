//! Flags, environment and TOML file in one: every flag of a program is also a variable and a key of its file. The command line
//! comes first in rank, then the environment, then the file.

use std::ffi::OsString;
use std::path::Path;

use clap::builder::FalseyValueParser;
use clap::{Arg, ArgAction, Command};

/// Adds the variable `WAYPOST_<FLAG>` to every flag that has none of its own.
pub fn with_environment(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let argument = match argument.get_action() {
            // A switch accepts 1, yes and true.
            ArgAction::SetTrue => argument.value_parser(FalseyValueParser::new()),
            _ => argument,
        };
        match argument.get_long().map(variable) {
            Some(name) if argument.get_env().is_none() => argument.env(name),
            _ => argument,
        }
    });
    command.mut_subcommands(with_environment)
}

fn variable(flag: &str) -> String {
    format!("WAYPOST_{}", flag.replace('-', "_").to_uppercase())
}

/// Adds to the arguments those of the file that `--config` names, unless the command line or the environment has them. `keep` lists keys of
/// the file that are not flags and are read elsewhere.
///
/// # Errors
/// The file cannot be read, or has an unknown key; the message has the nearest flag.
pub fn with_file(arguments: Vec<OsString>, command: &Command, keep: &[&str]) -> Result<Vec<OsString>, String> {
    let Some(path) = config_path(&arguments) else { return Ok(arguments) };
    let table = read(Path::new(&path))?;
    let (all, command) = (command, chosen(command, &arguments));
    let mut extra = Vec::new();
    for (key, value) in table.iter().filter(|(key, _)| !keep.contains(&key.as_str())) {
        let flag = kebab(key);
        // One file serves every verb: a key that only another verb knows is skipped.
        let Some(argument) = find(command, &flag) else {
            if all.get_subcommands().any(|other| find(other, &flag).is_some()) {
                continue;
            }
            return Err(unknown(command, &path, key));
        };
        // A flag with a variable of another name has another meaning here than elsewhere, so the file's key is not for it.
        if argument.get_env().is_some_and(|name| name != variable(&flag).as_str()) {
            continue;
        }
        let given = arguments.iter().any(|given| given.to_string_lossy().split('=').next() == Some(&format!("--{flag}")));
        let in_environment = argument.get_env().is_some_and(|name| std::env::var_os(name).is_some());
        if !given && !in_environment {
            extra.extend(as_arguments(&flag, value, argument, &path)?);
        }
    }
    Ok(arguments.into_iter().chain(extra).collect())
}

/// The file that `--config` or `WAYPOST_CONFIG` names, as a table.
///
/// # Errors
/// The file cannot be read or is not TOML.
pub fn read(path: &Path) -> Result<toml::Table, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.parse().map_err(|error| format!("{}: {error}", path.display()))
}

/// The path of the file; `None` if no file is named.
pub fn config_path(arguments: &[OsString]) -> Option<String> {
    let mut rest = arguments.iter().map(|argument| argument.to_string_lossy());
    while let Some(argument) = rest.next() {
        if argument == "--config" {
            return rest.next().map(|path| path.to_string());
        }
        if let Some(path) = argument.strip_prefix("--config=") {
            return Some(path.to_owned());
        }
    }
    std::env::var("WAYPOST_CONFIG").ok()
}

fn chosen<'a>(command: &'a Command, arguments: &[OsString]) -> &'a Command {
    arguments.iter().skip(1).find_map(|argument| command.find_subcommand(argument)).unwrap_or(command)
}

fn find<'a>(command: &'a Command, flag: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|argument| argument.get_long() == Some(flag))
}

fn unknown(command: &Command, path: &str, key: &str) -> String {
    let flags: Vec<&str> = command.get_arguments().filter_map(Arg::get_long).collect();
    match waypost_model::problem::nearest(&kebab(key), flags) {
        Some(name) => format!("{path}: unknown key {key:?}; did you mean {name:?}?"),
        None => format!("{path}: unknown key {key:?}; the keys are the flags of --help"),
    }
}

/// Converts `drainDelay` and `drain_delay` to `drain-delay`.
fn kebab(key: &str) -> String {
    key.chars().fold(String::new(), |mut text, c| {
        match c {
            '_' => text.push('-'),
            c if c.is_ascii_uppercase() => {
                text.push('-');
                text.push(c.to_ascii_lowercase());
            }
            c => text.push(c),
        }
        text
    })
}

fn as_arguments(flag: &str, value: &toml::Value, argument: &Arg, path: &str) -> Result<Vec<OsString>, String> {
    let switch = !argument.get_action().takes_values();
    let one = |text: String| vec![OsString::from(format!("--{flag}={text}"))];
    match value {
        toml::Value::Boolean(on) if switch => Ok(if *on { vec![format!("--{flag}").into()] } else { Vec::new() }),
        toml::Value::String(text) => Ok(one(text.clone())),
        toml::Value::Integer(number) => Ok(one(number.to_string())),
        toml::Value::Boolean(on) => Ok(one(on.to_string())),
        toml::Value::Array(values) => {
            values.iter().map(|value| as_arguments(flag, value, argument, path)).collect::<Result<Vec<_>, _>>().map(|all| all.concat())
        }
        toml::Value::Table(pairs) => {
            Ok(pairs.iter().flat_map(|(key, value)| one(format!("{key}={}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))).collect())
        }
        other => Err(format!("{path}: {flag} cannot be {}", other.type_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new("x")
            .arg(Arg::new("name").long("name"))
            .arg(Arg::new("label").long("label").action(clap::ArgAction::Append))
            .arg(Arg::new("drain-delay").long("drain-delay"))
            .arg(Arg::new("insecure").long("insecure").action(clap::ArgAction::SetTrue))
            .arg(Arg::new("config").long("config"))
    }

    fn merged(file: &str, given: &[&str]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, file).unwrap();
        let arguments = ["x".into(), "--config".into(), path.into_os_string()].into_iter().chain(given.iter().map(OsString::from)).collect();
        with_file(arguments, &command(), &["store"]).map(|all| all.into_iter().skip(3).map(|it| it.to_string_lossy().into_owned()).collect())
    }

    #[test]
    fn the_file_gives_what_the_command_line_does_not() {
        let file = "name = \"a\"\ndrainDelay = \"1s\"\ninsecure = true\nlabel = { tier = \"edge\" }\nstore = []";
        assert_eq!(merged(file, &["--name", "b"]).unwrap(), ["--name", "b", "--drain-delay=1s", "--insecure", "--label=tier=edge"]);
    }

    #[test]
    fn what_only_another_verb_knows_is_left_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "state = \"/x\"\noutput = \"json\"").unwrap();
        let verb = |name: &'static str, flag: &'static str| Command::new(name).arg(Arg::new(flag).long(flag));
        let command = Command::new("x").subcommand(verb("run", "state")).subcommand(verb("status", "output"));
        let arguments = ["x".into(), "status".into(), "--config".into(), path.clone().into_os_string()].to_vec();
        assert_eq!(with_file(arguments, &command, &[]).unwrap().last().unwrap(), "--output=json");
    }

    #[test]
    fn every_flag_has_a_variable() {
        let command = with_environment(command());
        let variable = |flag: &str| find(&command, flag).and_then(Arg::get_env).map(|name| name.to_string_lossy().into_owned());
        assert_eq!(variable("drain-delay").as_deref(), Some("WAYPOST_DRAIN_DELAY"));
        assert_eq!(variable("insecure").as_deref(), Some("WAYPOST_INSECURE"));
    }

    #[test]
    fn a_key_that_is_no_flag_is_answered_with_the_nearest() {
        assert!(merged("nmae = 1", &[]).unwrap_err().contains("unknown key \"nmae\"; did you mean \"name\"?"));
    }
}
