//! Eight users at once, each with a conversation of three turns, served by neuron and by llama-server.

use super::chat::{Chat, Turn};
use super::{Bench, figures::Figures, server::Server, weights::Weights};
use anyhow::{Context, Result};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

const NAMES: [&str; 4] = ["users8_total_tok_s", "users8_ttft", "users8_ttft_first", "users8_ttft_later"];
/// Tokens of every answer.
const ANSWER: u64 = 64;

/// What all users share, so that a cache of prefixes has something to find.
const SYSTEM: &str = "You are the assistant of a small town's library. Answer in plain words, keep to what \
    was asked, name a book where one fits, and say so when you do not know. The library is open from nine to \
    six, has a reading room upstairs, lends books for four weeks and games for two.";

/// A user's first question, then two more.
const QUESTIONS: [[&str; 3]; 8] = [
    [
        "My daughter is nine years old and has read every book about horses that she could find. She would \
         like something longer now, perhaps with a journey in it, but nothing too sad. What should she read \
         next, and why?",
        "Is there another one by the same author?",
        "How long may we keep it?",
    ],
    [
        "I am preparing a talk about how rivers shaped the towns along them, from mills and bridges to floods \
         and ferries. Which kinds of sources would you look at first, and in which order would you tell the \
         story to an audience?",
        "Which of these would an old map show?",
        "Give me a title for the talk.",
    ],
    [
        "We want to start a reading group for people who work late. We would meet every second Thursday and \
         read short books only. What would you advise us to read in the first three months, and how should \
         an evening go?",
        "What if somebody has not read the book?",
        "Can we use the reading room?",
    ],
    [
        "My grandfather kept bees and left me four hives, a smoker and a shelf of notebooks that I can hardly \
         read. I have never opened a hive in my life. What must I learn before spring comes, and what can \
         wait until the summer?",
        "What do bees need in winter?",
        "How do I read old handwriting?",
    ],
    [
        "Please explain to me how a telescope works, as if I were twelve and had only ever used a magnifying \
         glass. I would like to know why there are lenses in some and mirrors in others, and why big ones \
         are always on mountains.",
        "Could I build one at home?",
        "Which planets would I see with it?",
    ],
    [
        "I have to cook for fourteen people on Saturday, two of whom eat no meat and one of whom must not \
         have nuts. The kitchen has one oven and four small pots. Suggest a meal that I can prepare on \
         Friday evening, in what order?",
        "What can I do with the leftovers?",
        "Is there a book for cooks like me?",
    ],
    [
        "Our chess club has ten players of very different strength, and the stronger ones are getting bored \
         while the beginners lose every game. How could we arrange a tournament over six evenings so that \
         everybody has games that are worth playing until the end?",
        "How would you count the points?",
        "Do you lend chess clocks?",
    ],
    [
        "I am learning to write letters by hand again after thirty years of keyboards, and my hand hurts \
         after half a page. What do people who write a lot do about that, and which pen, paper and posture \
         would you suggest for a start?",
        "How often should I practise?",
        "Whose letters are worth reading?",
    ],
];

/// One round of both.
pub(super) fn measure(bench: &Bench, weights: &Weights, figures: &mut Figures) {
    let wanted = NAMES.iter().any(|name| bench.wants(&weights.figure(name)));
    if !wanted || !weights.is_served() {
        return;
    }
    let figure = weights.figure("users8");
    figures.attempt(&format!("{figure} of neuron"), |figures| {
        let server = Server::neuron(bench)?;
        server.load(weights)?;
        for (name, value) in serve(&server)? {
            figures.ours(&weights.figure(name), &[value]);
        }
        Ok(())
    });
    figures.attempt(&format!("{figure} of llama.cpp"), |figures| {
        let server = Server::llama(bench, &weights.file, QUESTIONS.len())?;
        for (name, value) in serve(&server)? {
            figures.theirs(&weights.figure(name), "llama-server", &[value]);
        }
        Ok(())
    });
}

/// Each name with its value: tokens a second of all users together; seconds to the first word, the mean of all
/// turns, of the first ones, of the later ones.
fn serve(server: &Server) -> Result<[(&'static str, f64); 4]> {
    // What a server does once only is not what is asked about. Another prompt, for its prefix stays cached.
    Chat::new(&server.url, "").ask("Good morning!", 4)?;
    let started = Instant::now();
    let users = thread::scope(|scope| -> Result<Vec<Vec<Turn>>> {
        let mut users: Vec<ScopedJoinHandle<'_, Result<Vec<Turn>>>> = Vec::new();
        for (i, questions) in QUESTIONS.iter().enumerate() {
            let talk = || {
                let mut chat = Chat::new(&server.url, SYSTEM);
                questions.iter().map(|question| chat.ask(question, ANSWER)).collect()
            };
            users.push(thread::Builder::new().name(format!("user {i}")).spawn_scoped(scope, talk)?);
        }
        users.into_iter().map(|user| user.join().ok().context("a user panicked")?).collect()
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let tokens: u64 = users.iter().flatten().map(|turn| turn.completion_tokens).sum();
    let mean = |turns: Vec<&Turn>| turns.iter().map(|turn| turn.ttft).sum::<f64>() / turns.len() as f64;
    let values = [
        tokens as f64 / seconds,
        mean(users.iter().flatten().collect()),
        mean(users.iter().map(|turns| &turns[0]).collect()),
        mean(users.iter().flat_map(|turns| &turns[1..]).collect()),
    ];
    Ok(std::array::from_fn(|i| (NAMES[i], values[i])))
}
