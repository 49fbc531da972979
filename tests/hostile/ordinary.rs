//! What ordinary clients send meanwhile.

use reqwest::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const PUZZLE: &str =
    "53..7....\n6..195...\n.98....6.\n8...6...3\n4..8.3..1\n7...2...6\n.6....28.\n...419..5\n....8..79";
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn client() -> Client {
    Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// A client that sends one request again and again and compares the answers.
#[derive(Clone)]
pub(super) struct Ordinary {
    url: String,
    body: Value,
    /// The choices of the answer when nobody else was there.
    alone: Value,
}

impl Ordinary {
    pub(super) async fn of(model: &str, base: &str) -> Self {
        let (path, body) = match model {
            "toy" => ("/v1/completions", json!({"prompt": "Once", "max_tokens": 32, "seed": 3, "temperature": 1})),
            _ => ("/v1/infill", json!({"template": PUZZLE, "blank": ".", "seed": 7, "diffusion": {"steps": 26}})),
        };
        let mut client = Self { url: format!("{base}{path}"), body, alone: Value::Null };
        client.alone = client.ask(&self::client()).await.unwrap();
        client
    }

    /// The choices of the answer, or what was answered instead.
    async fn ask(&self, client: &Client) -> Result<Value, String> {
        let response = client.post(&self.url).json(&self.body).send().await.map_err(|error| format!("{error:?}"))?;
        let (status, mut answer): (_, Value) = (response.status(), response.json().await.unwrap_or_default());
        if status == 200 { Ok(answer["choices"].take()) } else { Err(format!("{status}: {answer}")) }
    }

    /// Asks until the time is over, at least once.
    pub(super) async fn visit(self, until: Instant) -> Visits {
        let (client, mut visits) = (client(), Visits::default());
        while visits.waits.is_empty() || Instant::now() < until {
            let begun = Instant::now();
            match self.ask(&client).await {
                Ok(answer) if answer == self.alone => {}
                Ok(answer) => visits.failures.push(format!("another answer: {answer}")),
                Err(failure) => visits.failures.push(failure),
            }
            visits.waits.push(begun.elapsed());
        }
        visits
    }
}

/// What one ordinary client saw.
#[derive(Debug, Default)]
pub(super) struct Visits {
    /// How long each request took.
    pub(super) waits: Vec<Duration>,
    pub(super) failures: Vec<String>,
}
