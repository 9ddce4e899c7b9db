//! Other programs: found, run, read, and ended when they take too long.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Folders of system programs that the `PATH` of an ordinary user often lacks.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Finds a program in `PATH` or in the folders of system programs.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Runs a program that shares this terminal.
///
/// # Errors
///
/// It cannot be started, or it ends with another code than 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start `{}`", render(command)))?;
    succeeded(command, status, "")
}

/// Runs a program and returns what it printed.
///
/// # Errors
///
/// It cannot be started, or it ends with another code than 0; the message holds its own error text.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", render(command)))?;
    succeeded(
        command,
        output.status,
        &String::from_utf8_lossy(&output.stderr),
    )?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a program whose output matters only if it fails.
///
/// # Errors
///
/// It cannot be started, or it ends with another code than 0; the message holds all it printed.
pub(crate) fn quietly(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", render(command)))?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    succeeded(command, output.status, &said)
}

/// Runs a program silently for at most `limit`, then kills it and everything it started.
///
/// Returns whether it ended by itself, in time and with code 0.
///
/// # Errors
///
/// It cannot be started, or cannot be waited for.
pub(crate) fn succeeds_within(command: &mut Command, limit: Duration) -> Result<bool> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own, so that one signal reaches its children too.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{}`", render(command)))?;
    let group = child.id();
    let (tell, ended) = mpsc::channel();
    let waiter = thread::spawn(move || {
        let status = child.wait();
        // The receiver is gone only if the caller panicked.
        drop(tell.send(status));
    });
    let in_time = ended.recv_timeout(limit);
    if in_time.is_err() {
        // It fails if the group has just ended by itself, and then there is nothing to kill.
        Command::new("sh")
            .args(["-c", &format!("kill -KILL -{group}")])
            .stderr(Stdio::null())
            .status()
            .context("cannot start `sh`")?;
    }
    // The child is dead by now, so this ends at once.
    drop(waiter.join());
    match in_time {
        Ok(status) => Ok(status.context("cannot wait for a child")?.success()),
        Err(_) => Ok(false),
    }
}

/// The command as one would type it, for messages.
pub(crate) fn render(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn succeeded(command: &Command, status: ExitStatus, said: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let said = said.trim();
    let colon = if said.is_empty() { "" } else { ": " };
    bail!("`{}` failed ({status}){colon}{said}", render(command));
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    #[test]
    fn what_takes_too_long_is_killed_with_its_children() {
        let folder = env::temp_dir().join(format!("xtask-process-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let pipe = folder.join("pipe");
        run(Command::new("mkfifo").arg(&pipe)).expect("a named pipe");
        // The pipe ends when the last process that holds it has ended: the grandchild.
        let (tell, ended) = mpsc::channel();
        let reader = pipe.clone();
        thread::spawn(move || tell.send(fs::read(reader)));
        let script = format!("sh -c 'exec sleep 600' > {} & wait", pipe.display());

        let in_time = succeeds_within(
            Command::new("sh").args(["-c", &script]),
            Duration::from_secs(2),
        );

        assert!(!in_time.expect("sh starts"));
        let end = ended.recv_timeout(Duration::from_secs(60));
        fs::remove_dir_all(&folder).expect("the folder is ours");
        end.expect("the grandchild has ended")
            .expect("the pipe can be read");
    }

    #[test]
    fn what_ends_in_time_tells_its_code() {
        let limit = Duration::from_secs(60);
        assert!(succeeds_within(&mut Command::new("true"), limit).expect("true starts"));
        assert!(!succeeds_within(&mut Command::new("false"), limit).expect("false starts"));
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = output(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"]))
            .expect_err("code 3 is a failure")
            .to_string();
        assert!(error.contains("exit 3"), "{error}");
        assert!(error.ends_with("no luck"), "{error}");
    }
}
