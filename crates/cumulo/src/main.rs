//! `cumulo`: the command line, and the wiring of the platform.

mod cli;
mod cluster;
mod commands;
mod home;
mod operate;
mod platform;
mod project;
mod roles;
mod users;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use cli::{Cli, Command, DataRole, LearnRole};
use home::Home;

fn main() -> ExitCode {
    // Before anything else: a shim lives as long as its container and stays small.
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|word| word == "__shim") {
        cumulo_node::shim::shim_main(arguments);
    }
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(arguments) => commands::up::up(&Home::find()?, &arguments)?,
        Command::Down(arguments) => commands::up::down(&Home::find()?, &arguments)?,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "cumulo", &mut std::io::stdout());
        }
        Command::Reference => print!("{}", commands::reference::markdown(&Cli::command())),
        Command::Crds => {
            for crd in cumulo_api::crds() {
                print!("---\n{}", serde_saphyr::to_string(&crd)?);
            }
        }
        Command::Operator(arguments) => operate::operator(&arguments)?,
        Command::Tracking(arguments) => operate::tracking(&arguments)?,
        Command::Gateway(arguments) => operate::gateway(&arguments)?,
        Command::Node(arguments) => operate::node(&Home::find()?, &arguments)?,
        Command::Simulate(arguments) => commands::simulate::run(&arguments)?,
        Command::Data(DataRole::Build) => return roles::data::build(),
        Command::Learn(LearnRole::Train) => return roles::learn::train(),
        Command::Learn(LearnRole::Evaluate) => return roles::learn::evaluate(),
        Command::Exec(arguments) => return roles::exec::run(arguments),
        Command::Serve(arguments) => return roles::serve::run(arguments),
        command => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            return runtime.block_on(interactive(command));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Commands that talk to a running platform.
async fn interactive(command: Command) -> Result<ExitCode> {
    let home = Home::find()?;
    match command {
        Command::Status(output) => {
            return Ok(match commands::status::run(&home, output).await? {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            });
        }
        Command::Gpus(arguments) => {
            return Ok(match commands::gpus::run(&home, arguments).await? {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            });
        }
        Command::Run(arguments) => commands::run::run(&home, arguments).await?,
        Command::Apply(arguments) => commands::apply::run(&home, arguments).await?,
        Command::Get(arguments) => commands::get::run(&home, arguments).await?,
        Command::Describe(arguments) => commands::describe::run(&home, arguments).await?,
        Command::Delete(arguments) => commands::delete::run(&home, arguments).await?,
        Command::Logs(arguments) => commands::logs::run(&home, arguments).await?,
        Command::Hints { service, data } => commands::hints::run(&home, &service, &data).await?,
        Command::Predict(arguments) => commands::predict::run(&home, arguments).await?,
        Command::Sql(arguments) => commands::sql::run(&home, arguments).await?,
        Command::Train(arguments) => commands::train::run(&home, *arguments).await?,
        Command::Models(arguments) => commands::models::models(&home, arguments).await?,
        Command::User(command) => commands::user::run(&home, command).await?,
        Command::Runs(arguments) => commands::models::runs(&home, arguments).await?,
        _ => unreachable!("every other command was handled before"),
    }
    Ok(ExitCode::SUCCESS)
}

/// An error with its causes, without saying anything twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}
