//! `completions` and `man`: what shells and `man` know of the command line, made of the command line itself.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Failure, print};

/// The program, as shells call it.
const NAME: &str = "pusher-bridge";

pub(super) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// The page of the whole program; with a folder, a file there for it and for each command.
pub(super) fn man(folder: Option<&Path>) -> Result<(), Failure> {
    // Commands of commands have a page of theirs, too.
    let mut command = Cli::command();
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(command, folder))
            .map_err(|error| Failure::runtime(format!("{}: {error}", folder.display())))?;
        return Ok(());
    }
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(Failure::runtime)?;
    print(&String::from_utf8_lossy(&page))
}
