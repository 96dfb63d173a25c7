//! One bandwidth for many hosts (rule B3).
mod book;
mod divide;
pub use book::Book;
