//! `neuron run MODEL`: a conversation in the terminal, for people who only want to try a model. The daemon's own API
//! answers, in this process, and nothing listens.

mod session;

use std::{io::Write, time::Instant};

use anyhow::{Context, bail};
use axum::body::Body;
use futures_util::{FutureExt, StreamExt};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use rustyline::{DefaultEditor, error::ReadlineError};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{config::Config, server::Server};
use session::{Session, Told};

/// Bytes of an event of an answer.
const MAX_EVENT: usize = 4 << 20;

/// Loads the model and talks until the input ends.
pub async fn run(config: Config, model: &str) -> anyhow::Result<()> {
    let server = Server::in_process(config)?;
    eprintln!("loading {model} …");
    let started = Instant::now();
    let (status, body) = whole(&server, "/models/load", &json!({ "model_id": model })).await?;
    if status != StatusCode::OK {
        let error = &body["error"];
        bail!(
            "{model} cannot be loaded: {}",
            error["message"].as_str().map_or_else(|| error.to_string(), str::to_owned)
        );
    }
    eprintln!("loaded in {:.1} s; /help says what there is", started.elapsed().as_secs_f64());
    // From now on Ctrl-C ends an answer, and not the program.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut session = Session::new(model);
    let mut lines = Some(DefaultEditor::new().context("the terminal cannot be read")?);
    while let Some(editor) = lines.take() {
        let (editor, line) = tokio::task::spawn_blocking(move || read(editor)).await?;
        let line = match line {
            Ok(line) => line,
            // At the prompt there is nothing to end but the line.
            Err(ReadlineError::Interrupted) => {
                lines = Some(editor);
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("the terminal cannot be read"),
        };
        match session.take(&line) {
            Told::Nothing => {}
            Told::Words(words) => println!("{words}"),
            Told::Ask => answer(&server, &mut session, &mut interrupt).await?,
            Told::Bye => break,
        }
        lines = Some(editor);
    }
    server.stop().await;
    Ok(())
}

fn read(mut editor: DefaultEditor) -> (DefaultEditor, rustyline::Result<String>) {
    let line = editor.readline("> ");
    if let Ok(line) = &line {
        // Without a history of earlier lines it goes on.
        editor.add_history_entry(line.as_str()).ok();
    }
    (editor, line)
}

/// A model's words do not steer the terminal.
fn plain(text: &str) -> String {
    text.replace(|c: char| c.is_control() && !matches!(c, '\n' | '\t'), "\u{fffd}")
}

fn request(path: &str, body: &Value) -> anyhow::Result<Request<Body>> {
    Ok(Request::post(path).header("content-type", "application/json").body(Body::from(body.to_string()))?)
}

async fn whole(server: &Server, path: &str, body: &Value) -> anyhow::Result<(StatusCode, Value)> {
    let response = server.answer(request(path, body)?).await;
    let status = response.status();
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok((status, serde_json::from_slice(&bytes)?))
}

/// Writes the answer as it comes; an interrupt ends it, and what was said stays in the conversation.
async fn answer(server: &Server, session: &mut Session, interrupt: &mut Signal) -> anyhow::Result<()> {
    // One that came while nobody waited is for nothing that comes now.
    while interrupt.recv().now_or_never().is_some() {}
    let asked = server.answer(request("/v1/chat/completions", &session.request())?);
    let response = tokio::select! {
        response = asked => response,
        _ = interrupt.recv() => {
            println!(" …");
            session.take_back();
            return Ok(());
        }
    };
    if response.status() != StatusCode::OK {
        let bytes = response.into_body().collect().await?.to_bytes();
        let error: Value = serde_json::from_slice(&bytes)?;
        println!("{}", error["error"]["message"].as_str().unwrap_or("the request failed"));
        session.take_back();
        return Ok(());
    }
    let mut events = response.into_body().into_data_stream();
    let (mut held, mut said, mut out) = (Vec::new(), String::new(), std::io::stdout());
    loop {
        let piece = tokio::select! {
            piece = events.next() => piece,
            _ = interrupt.recv() => {
                print!(" …");
                break;
            }
        };
        let Some(piece) = piece else { break };
        held.extend_from_slice(&piece?);
        while let Some(end) = held.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = held.drain(..end + 2).collect();
            let text = session.told(&event[..end]);
            out.write_all(plain(&text.shown).as_bytes())?;
            said += &text.said;
        }
        out.flush()?;
        if held.len() > MAX_EVENT {
            bail!("an event of the answer does not end");
        }
    }
    println!();
    session.answered(said);
    Ok(())
}
