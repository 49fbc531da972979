//! Every policy of the registry over gRPC, by its name.

use super::calls::{COMPLETIONS, Call, client, diffusing, refused, told};
use super::proto;
use super::proto::{remasking, rule, unmasking};
use crate::common::server::Server;
use remask::diffusion::policy::{Kind, Knob, NO_CACHE, Range, rules};
use serde_json::{Map, Value, json};

/// A rule by its name, with these knobs.
fn named(name: &str, knobs: impl IntoIterator<Item = (&'static str, rule::value::Value)>) -> proto::Rule {
    let knobs = knobs.into_iter().map(|(name, value)| (name.to_owned(), rule::Value { value: Some(value) }));
    proto::Rule { name: name.to_owned(), knobs: knobs.collect() }
}

/// A value of a knob, for gRPC and in JSON.
fn value(knob: &Knob) -> (rule::value::Value, Value) {
    match knob.range {
        Range::Count { .. } => (rule::value::Value::Count(3), json!(3)),
        Range::Fraction | Range::Number { .. } => (rule::value::Value::Number(0.5), json!(0.5)),
        Range::Span => (rule::value::Value::Span(remasking::Window { from: 0.25, until: 0.75 }), json!([0.25, 0.75])),
    }
}

fn ordered(proto::Rule { name, knobs }: proto::Rule) -> proto::Diffusion {
    let unmasking = proto::Unmasking { order_name: name, order_knobs: knobs, ..Default::default() };
    proto::Diffusion { unmasking: Some(unmasking), ..Default::default() }
}

fn paced(rule: proto::Rule) -> proto::Diffusion {
    let unmasking = proto::Unmasking { pace: Some(unmasking::Pace::Rule(rule)), ..Default::default() };
    proto::Diffusion { unmasking: Some(unmasking), ..Default::default() }
}

fn cached(rule: proto::Rule) -> proto::Diffusion {
    proto::Diffusion { cache: Some(rule), ..Default::default() }
}

fn remasked(rule: proto::Rule) -> proto::Diffusion {
    let remasking = proto::Remasking { policy: Some(remasking::Policy::Rule(rule)) };
    proto::Diffusion { remasking: Some(remasking), ..Default::default() }
}

#[tokio::test]
async fn every_policy_gives_what_it_gives_over_http() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let (mut texts, mut count) = (std::collections::BTreeSet::new(), 0);
    for kind in [Kind::Order, Kind::Pace, Kind::Remasking, Kind::Cache] {
        // the demo model keeps nothing
        for rule in rules(kind).into_iter().filter(|rule| kind != Kind::Cache || *rule == &NO_CACHE) {
            let values: Vec<_> = rule.knobs.iter().map(|knob| (knob.name, value(knob))).collect();
            let mut json: Map<String, Value> =
                values.iter().map(|(name, (_, json))| ((*name).to_owned(), json.clone())).collect();
            let asked = named(rule.name, values.into_iter().map(|(name, (value, _))| (name, value)));
            let (grpc, diffusion) = match kind {
                Kind::Order => {
                    json.insert("order".to_owned(), json!(rule.name));
                    (ordered(asked), json!({"unmasking": json}))
                }
                Kind::Pace => (paced(asked), json!({"unmasking": json})),
                Kind::Remasking => {
                    json.insert("policy".to_owned(), json!(rule.name));
                    (remasked(asked), json!({"remasking": json}))
                }
                Kind::Cache => {
                    json.insert("policy".to_owned(), json!(rule.name));
                    (cached(asked), json!({"cache": json}))
                }
            };
            let http = json!({"prompt": "a", "diffusion": diffusion, "temperature": 1.0, "seed": 3});
            let whole = server.answer(COMPLETIONS, &http).await;
            let call = proto::GenerateRequest { temperature: 1.0, seed: Some(3), ..diffusing(grpc) };
            let (_, _, done) = told(client.generate(call).await.unwrap().into_inner()).await;
            assert_eq!(json!(done.text), whole["choices"][0]["text"], "{kind} {}", rule.name);
            let summary = done.diffusion.unwrap();
            assert_eq!(json!(summary.erased), whole["diffusion"]["erased"], "{kind} {}", rule.name);
            assert_eq!(json!(summary.replaced), whole["diffusion"]["replaced"], "{kind} {}", rule.name);
            (count, _) = (count + 1, texts.insert(done.text));
        }
    }
    assert!(count >= 23 && texts.len() > 5, "{count} rules, {} texts", texts.len());
}

#[tokio::test]
async fn what_a_rule_does_not_take_is_named() {
    use rule::value::Value::{Count, Number, Span};
    let server = Server::toy().await;
    let mut client = client(&server);
    let span = Span(remasking::Window { from: 0.1, until: 0.2 });
    let nothing =
        proto::Rule { name: "present".to_owned(), knobs: [("below".to_owned(), rule::Value::default())].into() };
    for (diffusion, words) in [
        (
            ordered(named("rightmost", [])),
            "diffusion.unmasking.order_name: given \"rightmost\"; give one of \"confidence\"",
        ),
        (
            ordered(named("margin", [("eta", Number(0.5))])),
            "diffusion.unmasking.order_knobs: margin has no knob \"eta\"",
        ),
        (ordered(named("margin", [("credit", Number(-1.0))])), "credit is -1; give a number from 0 to 100"),
        (ordered(named("", [("credit_power", Number(0.5))])), "credit_power goes with credit; give that too"),
        (paced(named("fast", [])), "diffusion.unmasking.rule: given \"fast\"; give one of \"threshold\", \"factor\""),
        (paced(named("factor", [])), "diffusion.unmasking.rule.knobs is missing; give a value for factor"),
        (paced(named("factor", [("eta", Number(0.5))])), "factor has no knob \"eta\"; its knobs are factor"),
        (remasked(named("", [])), "diffusion.remasking.rule: given \"\"; give one of \"off\", \"quality\""),
        (remasked(named("present", [("budget", Number(0.5))])), "budget is 0.5; give 0 to 65536"),
        (remasked(named("present", [("below", Count(1))])), "below is 1; give a number from 0 to 1"),
        (remasked(named("token_editing", [("above", Number(2.0))])), "above is 2; give a number from 0 to 1"),
        (remasked(named("p2", [("weight", span)])), "weight is [0.1, 0.2]; give a number from 0 to 100"),
        (remasked(named("remdm_cap", [("eta", Number(f32::NAN))])), "eta is NaN; give a number from 0 to 1"),
        (remasked(named("off", [("budget", Count(1))])), "off has no knob \"budget\"; it takes none"),
        (cached(named("dual", [("refresh", Count(0))])), "refresh is 0; give 1 to 65536"),
        (
            cached(named("dual", [])),
            "cache \"dual\" keeps keys and values, which a model of the family \"toy\" does not",
        ),
        (cached(named("whole", [])), "diffusion.cache: given \"whole\"; give one of \"off\", \"prefix\", \"dual\""),
        (remasked(nothing), "below has no value; give a number from 0 to 1"),
    ] {
        let status = refused(&mut client, Call::Generate(diffusing(diffusion))).await;
        assert!(status.message().contains(words), "{words}: {status:?}");
    }
}

#[tokio::test]
async fn every_preset_gives_what_it_gives_over_http() {
    let server = Server::toy().await;
    let mut client = client(&server);
    let info = client.info(proto::InfoRequest::default()).await.unwrap().into_inner();
    let model: Value = server.get("/v1/models/toy").await.json().await.unwrap();
    let listed: Map<String, Value> =
        info.presets.iter().map(|(name, text)| (name.clone(), serde_json::from_str(text).unwrap())).collect();
    assert_eq!(model["diffusion"]["presets"], Value::Object(listed.clone()));
    assert!(["fast", "balanced", "quality"].iter().all(|name| listed.contains_key(*name)), "{listed:?}");

    let mut passes = std::collections::BTreeSet::new();
    for name in listed.keys() {
        // a field of the request wins over the preset's
        for end_of_text in [proto::EndOfText::Unspecified, proto::EndOfText::Never] {
            let preset = Some(name.clone());
            let grpc = proto::Diffusion { preset, end_of_text: end_of_text.into(), ..Default::default() };
            let mut diffusion = json!({"preset": name});
            if end_of_text == proto::EndOfText::Never {
                diffusion["end_of_text"] = json!("never");
            }
            let whole = server.answer(COMPLETIONS, &json!({"prompt": "a", "diffusion": diffusion})).await;
            let (_, _, done) = told(client.generate(diffusing(grpc)).await.unwrap().into_inner()).await;
            assert_eq!(json!(done.text), whole["choices"][0]["text"], "{diffusion}");
            let count = done.diffusion.unwrap().forward_passes;
            assert_eq!(json!(count), whole["diffusion"]["forward_passes"], "{diffusion}");
            passes.insert(count);
        }
    }
    assert!(passes.len() >= 3, "presets differ: {passes:?}");

    let preset = Some("turbo".to_owned());
    let status =
        refused(&mut client, Call::Generate(diffusing(proto::Diffusion { preset, ..Default::default() }))).await;
    let words = "diffusion.preset: given \"turbo\"; give one of \"balanced\", \"fast\", \"quality\"";
    assert_eq!(status.message(), words);
}
