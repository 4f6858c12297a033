//! Containers of a real engine.

mod ends;
mod engine;
mod hello;
mod image;
mod own;
