//! A terminal for the program: a pseudo-terminal and an emulator that reads it.
#![allow(dead_code)]

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::process::{Child, Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// Rows of every terminal here: few, so that a run scrolls.
const ROWS: u16 = 12;

/// A terminal with scroll-back that never ends, which breaks and joins lines when it is resized, as
/// those of today do.
pub struct Terminal {
    master: File,
    emulator: avt::Terminal,
    /// Bytes of a character that is not complete yet.
    rest: Vec<u8>,
    /// All that was received.
    pub received: Vec<u8>,
}

impl Terminal {
    /// With so many columns; 0 says nothing to the program, and is 100.
    pub fn new(columns: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let seen = if columns == 0 { 100 } else { columns };
        let rows = usize::from(ROWS);
        let terminal = Self {
            master: File::from(master),
            emulator: avt::Terminal::with_scrollback(usize::from(seen), rows, None).unwrap(),
            rest: Vec::new(),
            received: Vec::new(),
        };
        terminal.tell(columns);
        terminal
    }

    /// What a program has as a standard stream on this terminal.
    pub fn stream(&self) -> Stdio {
        let name = ptsname(&self.master, Vec::new()).unwrap();
        let slave = OpenOptions::new()
            .read(true)
            .write(true)
            .open(name.to_str().unwrap());
        Stdio::from(slave.unwrap())
    }

    /// Starts a program with all its streams on this terminal.
    pub fn spawn(&self, command: &mut Command) -> Child {
        command.env("TERM", "xterm-256color").stdin(self.stream());
        let child = command.stdout(self.stream()).stderr(self.stream()).spawn();
        // What the command keeps open would keep the terminal from ending.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        child.unwrap()
    }

    fn tell(&self, columns: u16) {
        let size = Winsize {
            ws_row: ROWS,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.master, size).unwrap();
    }

    pub fn resize(&mut self, columns: u16) {
        self.tell(columns);
        self.emulator
            .resize(usize::from(columns), usize::from(ROWS));
    }

    /// Takes in what the program writes next; false when it and all others are gone.
    pub fn receive(&mut self) -> bool {
        let mut buffer = [0; 512];
        let Ok(count @ 1..) = self.master.read(&mut buffer) else {
            return false;
        };
        self.received.extend(&buffer[..count]);
        self.rest.extend(&buffer[..count]);
        let whole = match std::str::from_utf8(&self.rest) {
            Ok(text) => text.len(),
            Err(error) => error.valid_up_to(),
        };
        let text: Vec<u8> = self.rest.drain(..whole).collect();
        self.emulator.feed(std::str::from_utf8(&text).unwrap());
        true
    }

    pub fn receive_all(&mut self) {
        while self.receive() {}
    }

    /// Receives until the visible lines hold `words`.
    pub fn receive_until(&mut self, words: &str) {
        while !self.lines().iter().any(|line| line.contains(words)) {
            assert!(self.receive(), "`{words}` never came:\n{:#?}", self.lines());
        }
    }

    /// What stands on the screen and above it, in lines as they were written.
    pub fn lines(&self) -> Vec<String> {
        let text = self.emulator.primary_screen().text();
        let mut lines: Vec<String> = text.iter().map(|line| line.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }
}
