//! The command as its users meet it: exit codes, what goes to stdout and to stderr, what is written and what is left alone.

mod book;
mod build;
mod golden;
mod gpu;
mod page;
mod room;
mod run;
mod shared;
mod show;
mod specs;
mod systems;
mod training;
mod tune;
