//! `causeway top`: the dashboard in a terminal. Here are its hands: the terminal, the keyboard, the
//! connection to the proxy. What is shown, and how, is in `top/`.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossterm::event::{
    Event as Input, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};
use ratatui::DefaultTerminal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::StreamExt;

use super::admin_client::AdminClient;
use super::sysexits;
use crate::top::{Happening, Key, Model, draw};

/// Bound on reaching the proxy.
const CONNECT: Duration = Duration::from_secs(3);
/// The proxy speaks twice a second; silent for this long it counts as away.
const SILENCE: Duration = Duration::from_secs(5);
/// Pause before the first new attempt; each further one waits twice as long, up to the second.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];
/// Lines of a page of events.
const PAGE: usize = 10;

/// Shows the dashboard in this terminal.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    proxy: AdminClient,
}

/// Runs until it is told to stop.
pub async fn run(args: Args) -> ExitCode {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        eprintln!("causeway top: this is no terminal; `causeway status` writes to anything");
        return ExitCode::from(sysexits::USAGE);
    }
    let mut screen = match Screen::enter() {
        Ok(screen) => screen,
        Err(error) => {
            eprintln!("causeway top: cannot use this terminal: {error}");
            return ExitCode::from(sysexits::UNAVAILABLE);
        }
    };
    let ended = show(&args.proxy, &mut screen).await;
    drop(screen);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("causeway top: {error}");
            ExitCode::from(sysexits::SOFTWARE)
        }
    }
}

/// The terminal, put back as it was found when dropped, and when anything panics.
#[derive(Debug)]
pub struct Screen(DefaultTerminal);

impl Screen {
    /// Takes the terminal over: raw, on the alternate screen.
    pub fn enter() -> io::Result<Self> {
        // This hooks into panics as well.
        ratatui::try_init().map(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // In a panic it has been put back already, before the panic was told; to do so twice would
        // send the cursor back to above what was told.
        if !std::thread::panicking() {
            ratatui::restore();
        }
    }
}

async fn show(proxy: &AdminClient, screen: &mut Screen) -> io::Result<()> {
    let started = Instant::now();
    let mut model = Model::new(&proxy.http);
    let (tell, mut told) = mpsc::channel(16);
    // In this task and not in one of its own: a panic ends the program, with the terminal put back.
    let following = follow(proxy, tell);
    tokio::pin!(following);
    let mut keys = EventStream::new();
    let mut ends = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let [terminated, interrupted, hung_up] = &mut ends;
    // What is said of time passes also while nothing happens.
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        screen
            .0
            .draw(|frame| draw(frame, &model, started.elapsed()))?;
        let happening = tokio::select! {
            () = &mut following => return Ok(()),
            happening = told.recv() => happening,
            input = keys.next() => match input {
                Some(Ok(Input::Key(key))) => match pressed(key) {
                    Some(Press::Quit) => return Ok(()),
                    Some(Press::Key(key)) => Some(Happening::Pressed(key)),
                    None => None,
                },
                // A new size is drawn right away, and anything else does no harm.
                Some(Ok(_)) => None,
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            _ = ticks.tick() => None,
            _ = terminated.recv() => return Ok(()),
            _ = interrupted.recv() => return Ok(()),
            _ = hung_up.recv() => return Ok(()),
        };
        let now = started.elapsed();
        if let Some(happening) = happening
            && let Err(why) = model.note(happening, now)
        {
            let again_in = Duration::ZERO;
            let _ = model.note(Happening::Lost { why, again_in }, now);
        }
    }
}

/// Passes on what the proxy says, and comes back to it for as long as it takes.
async fn follow(proxy: &AdminClient, tell: mpsc::Sender<Happening>) {
    let [mut pause, longest] = PAUSES;
    loop {
        let (heard, why) = listen(proxy, &tell).await;
        if heard {
            pause = PAUSES[0];
        }
        let again_in = pause;
        if tell.send(Happening::Lost { why, again_in }).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 2);
    }
}

/// Listens while the proxy speaks: whether anything was heard, and why it ended.
async fn listen(proxy: &AdminClient, tell: &mpsc::Sender<Happening>) -> (bool, String) {
    let mut heard = false;
    let mut feed = match tokio::time::timeout(CONNECT, proxy.feed()).await {
        Ok(Ok(feed)) => feed,
        Ok(Err(why)) => return (heard, why),
        Err(_) => return (heard, format!("no answer within {CONNECT:?}")),
    };
    loop {
        match tokio::time::timeout(SILENCE, feed.next()).await {
            Ok(Ok(event)) => {
                heard = true;
                if tell.send(Happening::Said(event)).await.is_err() {
                    return (heard, "nobody looks any more".to_owned());
                }
            }
            Ok(Err(why)) => return (heard, why),
            Err(_) => return (heard, format!("silent for {SILENCE:?}")),
        }
    }
}

enum Press {
    Quit,
    Key(Key),
}

fn pressed(key: KeyEvent) -> Option<Press> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c') if control => Press::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Press::Quit,
        KeyCode::Tab | KeyCode::BackTab => Press::Key(Key::Next),
        KeyCode::Up => Press::Key(Key::Up(1)),
        KeyCode::Down => Press::Key(Key::Down(1)),
        KeyCode::PageUp => Press::Key(Key::Up(PAGE)),
        KeyCode::PageDown => Press::Key(Key::Down(PAGE)),
        KeyCode::Home => Press::Key(Key::First),
        KeyCode::End => Press::Key(Key::Last),
        _ => return None,
    })
}
