//! `cumulo`: the command line, and the wiring of the platform.

mod cli;
mod cluster;
mod commands;
mod doctor;
mod home;
mod manifests;
mod place;
mod platform;
mod project;
mod roles;
mod users;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser};

use cli::{Cli, Command, DataRole, LearnRole, PlaceArgs};
use home::Home;
use place::Place;

fn main() -> ExitCode {
    // Before anything else: a shim lives as long as its container and stays small.
    let mut arguments = std::env::args_os();
    if arguments.nth(1).is_some_and(|word| word == "__shim") {
        cumulo_node::shim::shim_main(arguments);
    }
    let cli = Cli::parse();
    match dispatch(cli.place, cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(place: PlaceArgs, command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(_) | Command::Down(_) if !place.is_empty() => anyhow::bail!(
            "`cumulo up` and `cumulo down` are about this machine's platform: leave --context and --kubeconfig out"
        ),
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
        Command::Manifests(arguments) => {
            let settings = manifests::settings::read(
                &arguments.namespace,
                arguments.image.as_deref(),
                &arguments.set,
            )?;
            if settings.image == cumulo_api::RUNTIME_IMAGE {
                eprintln!(
                    "warning: without --image the roles name {}, which no registry has: `cargo xtask image` makes an image to push (docs/cluster.md)",
                    settings.image
                );
            }
            print!("{}", manifests::render(&settings)?);
        }
        Command::Simulate(arguments) => commands::simulate::run(&arguments)?,
        Command::Data(DataRole::Build) => return roles::data::build(),
        Command::Learn(LearnRole::Train) => return roles::learn::train(),
        Command::Learn(LearnRole::Evaluate) => return roles::learn::evaluate(),
        Command::Exec(arguments) => return roles::exec::run(arguments),
        Command::Serve(arguments) => return roles::serve::run(arguments),
        Command::Scheduler(arguments) => return roles::scheduler::run(&place, arguments),
        command => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            return runtime.block_on(interactive(place, command));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Commands that talk to a running platform.
async fn interactive(place: PlaceArgs, command: Command) -> Result<ExitCode> {
    if let Command::Doctor(arguments) = command {
        return Ok(match doctor::run(&place, arguments).await? {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        });
    }
    match &command {
        Command::Backup { to } => {
            commands::backup::backup(&Home::find()?, to).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Restore { from } => {
            commands::backup::restore(&Home::find()?, from).await?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let place = Place::find(&place).await?;
    match command {
        Command::Status(output) => {
            return Ok(match commands::status::run(&place, output).await? {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            });
        }
        Command::Gpus(arguments) => {
            return Ok(match commands::gpus::run(&place, arguments).await? {
                0 => ExitCode::SUCCESS,
                _ => ExitCode::FAILURE,
            });
        }
        Command::Run(arguments) => commands::run::run(&place, arguments).await?,
        Command::Apply(arguments) => commands::apply::run(&place, arguments).await?,
        Command::Get(arguments) => commands::get::run(&place, arguments).await?,
        Command::Describe(arguments) => commands::describe::run(&place, arguments).await?,
        Command::Explain(arguments) => commands::explain::run(&place, arguments).await?,
        Command::Delete(arguments) => commands::delete::run(&place, arguments).await?,
        Command::Logs(arguments) => commands::logs::run(&place, arguments).await?,
        Command::Hints { service, data } => commands::hints::run(&place, &service, &data).await?,
        Command::Predict(arguments) => commands::predict::run(&place, arguments).await?,
        Command::Sql(arguments) => commands::sql::run(&place, arguments).await?,
        Command::Train(arguments) => commands::train::run(&place, *arguments).await?,
        Command::Models(arguments) => commands::models::models(&place, arguments).await?,
        Command::User(command) => commands::user::run(&place, command).await?,
        Command::Runs(arguments) => commands::models::runs(&place, arguments).await?,
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
