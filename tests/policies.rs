//! A policy is one entry of the registry: three rules that exist in this test alone are found
//! wherever policies are listed, parsed, run and counted.

mod common;

use common::server::Server;
use remask::cmd;
use remask::diffusion::policy::{
    BUDGET, Choice, Kind, Knob, Needs, Range, Rule, Setting, find, knobs, register, rules, table,
};
use remask::diffusion::{Edit, Proposal};
use remask::engine::Limits;
use remask::model::Toy;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::sync::Once;

/// Erases the cells that have stood for `patience` steps, the oldest first. It counts the steps
/// itself, to show that a rule may depend on its own past.
static OLDEST: Rule = Rule {
    name: "oldest",
    help: "The cells that have stood longest.",
    knobs: &[
        &BUDGET,
        &Knob {
            name: "patience",
            help: "Steps that a cell stands before it may be erased; default: 2.",
            range: Range::Count { min: 1 },
            default: |_, _| Some(Setting::Count(2)),
        },
    ],
    remember: Some(|cell| cell.memory + 1.0),
    decide: |view| {
        let patience = view.settings.count("patience").unwrap_or(1);
        let mut cells: Vec<_> = view.filled.iter().filter(|cell| cell.age >= patience).collect();
        assert!(cells.iter().all(|cell| cell.memory + 1.0 == f32::from(u16::try_from(cell.age).unwrap())));
        cells.sort_by_key(|cell| Reverse(cell.age));
        cells.into_iter().map(|cell| cell.erase(None)).collect()
    },
    ..Rule::NONE
};

/// Erases what is least likely as the canvas stands now, from the output layer alone.
static UNLIKELY: Rule = Rule {
    name: "unlikely",
    help: "The cells whose tokens have become unlikely.",
    knobs: &[&BUDGET],
    needs: Needs::PRESENT,
    decide: |view| {
        let mut cells: Vec<_> = view.filled.iter().collect();
        cells.sort_by_key(|cell| cell.present.expect("the rule asked for it"));
        cells.into_iter().map(|cell| cell.erase(None)).collect()
    },
    ..Rule::NONE
};

/// From right to left.
static RIGHTMOST: Rule = Rule {
    kind: Kind::Order,
    name: "rightmost",
    help: "From right to left.",
    decide: |view| view.proposals.iter().rev().map(Proposal::fill).collect(),
    ..Rule::NONE
};

/// So many blanks at once, the leftmost.
static GROUP: Rule = Rule {
    kind: Kind::Pace,
    name: "group",
    help: "So many blanks at once.",
    knobs: &[&Knob {
        name: "group",
        help: "Blanks that are filled at once.",
        range: Range::Count { min: 1 },
        default: |_, _| None,
    }],
    decide: |view| {
        let count = view.settings.count("group").unwrap_or(1) as usize;
        view.proposals.iter().take(count).map(Proposal::fill).collect()
    },
    ..Rule::NONE
};

fn registered() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| [&OLDEST, &UNLIKELY, &RIGHTMOST, &GROUP].into_iter().for_each(|rule| register(rule).unwrap()));
}

async fn infill(server: &Server, diffusion: Value) -> Value {
    let body = json!({"template": "a<blank:8>b", "seed": 1, "stream": false, "diffusion": diffusion});
    server.post("/v1/infill", &body).await.json().await.unwrap()
}

#[test]
fn the_registry_has_it() {
    registered();
    assert_eq!(find(Kind::Remasking, "oldest"), Some(&OLDEST));
    assert_eq!(find(Kind::Order, "oldest"), None);
    assert!(rules(Kind::Order).contains(&&RIGHTMOST));
    assert!(knobs(Kind::Remasking).iter().any(|knob| knob.name == "patience"));
    let rows = table(Kind::Remasking);
    assert!(rows.contains("| `oldest` | The cells that have stood longest. | `budget`, `patience` |  |"), "{rows}");
    assert!(rows.contains("| `patience` | 1 to 65536 | Steps that a cell stands"), "{rows}");
    let choice = Choice::of(&OLDEST).with_defaults(7);
    assert_eq!((choice.budget(), choice.settings.count("patience")), (7, Some(2)));
}

#[tokio::test]
async fn requests_choose_it_and_metrics_count_it() {
    registered();
    let server = Server::toy().await;
    let remasking = json!({"policy": "oldest", "budget": 3, "patience": 2});
    let answer = infill(&server, json!({"steps": 8, "remasking": remasking, "proofreading": "off"})).await;
    assert_eq!(answer["diffusion"]["erased"], 3, "{answer}");
    server.until("remask_cells_erased_total{model=\"toy\",policy=\"oldest\"} 3").await;

    let grouped = json!({"unmasking": {"order": "rightmost", "group": 4}, "remasking": "off"});
    let answer = infill(&server, grouped).await;
    assert_eq!(answer["diffusion"]["forward_passes"], 2, "{answer}");
}

#[tokio::test]
async fn a_rule_gets_the_present_confidence_it_asks_for() {
    registered();
    let remasking = json!({"policy": "unlikely", "budget": 4});
    let diffusion = json!({"steps": 8, "remasking": remasking, "proofreading": "off"});
    for (server, template) in [(Server::toy().await, "a........b"), (Server::sudoku().await, "53..7....\n6..195...")] {
        let body = json!({"template": template, "blank": ".", "seed": 1, "diffusion": diffusion});
        let answer: Value = server.post("/v1/infill", &body).await.json().await.unwrap();
        assert_eq!(answer["diffusion"]["erased"], 4, "{answer}");
    }
}

#[tokio::test]
async fn exact_quality_needs_no_head_and_its_rows_are_counted_and_bounded() {
    let diffusion = json!({"steps": 4, "remasking": {"policy": "exact", "budget": 2}, "proofreading": "off"});
    let server = Server::of(Box::new(Toy::without_head()), Limits::default()).await;
    let body = |blanks: usize| json!({"template": format!("a<blank:{blanks}>b"), "seed": 1, "diffusion": diffusion});
    let answer: Value = server.post("/v1/infill", &body(8)).await.json().await.unwrap();
    let report = &answer["diffusion"];
    assert_eq!(report["erased"], 2, "{answer}");
    // a row for each step, and in each one for each cell that was filled before it
    let rows = report["forward_passes"].as_u64().unwrap();
    assert!(rows > 4 && rows <= 4 + 3 * 8, "{answer}");

    let few = Limits { batch_tokens_max: 90, ..Limits::default() };
    let server = Server::of(Box::new(Toy::without_head()), few).await;
    assert_eq!(server.post("/v1/infill", &body(8)).await.status(), 200, "9 rows of 10 tokens");
    let refused: Value = server.post("/v1/infill", &body(9)).await.json().await.unwrap();
    assert_eq!(
        refused["error"]["message"],
        "remasking by exact reads up to 10 rows of 11 tokens in a step, 110 in all; 90 are allowed (--max-batch-tokens \
         of the server): give a smaller block_length, or another policy"
    );
    assert_eq!(refused["error"]["param"], "diffusion.remasking");
}

#[tokio::test]
async fn an_order_decides_what_is_filled_first() {
    registered();
    let handle = common::toy();
    let task = remask::engine::Task::Infill { template: "<blank:4>".to_owned(), blank: "<blank>".to_owned() };
    let request = remask::engine::Request {
        order: Some(Choice::of(&RIGHTMOST)),
        remasking: Some(Choice::of(&remask::diffusion::policy::OFF)),
        ..remask::engine::Request::new(task)
    };
    let mut session = handle.submit_unmerged(&request).unwrap();
    let mut places = Vec::new();
    while let Some(event) = session.next().await {
        if let remask::engine::Event::Step(step) = event {
            places.extend(step.edits.iter().map(|edit: &Edit| edit.at().0));
        }
    }
    assert_eq!(places, [3, 2, 1, 0]);
}

#[tokio::test]
async fn faults_name_it() {
    registered();
    let server = Server::toy().await;
    let message = async |diffusion| infill(&server, diffusion).await["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!(
        message(json!({"remasking": "youngest"})).await,
        "diffusion.remasking: unknown variant `youngest`, expected one of \
         `off`, `quality`, `exact`, `confidence`, `present`, `running`, `t2m`, `p2`, `saber`, `token_editing`, `proseco`, `remdm`, \
         `remdm_cap`, `remdm_rescale`, `remedi`, `remedi_logit`, `random`, `oldest`, `unlikely`, or an object of `policy` and knobs"
    );
    assert_eq!(
        message(json!({"remasking": {"policy": "oldest", "patience": 0}})).await,
        "patience is 0; give 1 to 65536"
    );
    assert_eq!(
        message(json!({"remasking": {"policy": "quality", "patience": 2}})).await,
        "patience goes with the policy \"oldest\"; \
         with \"quality\" give budget, below, window and hold"
    );
    assert_eq!(
        message(json!({"unmasking": {"group": 2, "threshold": 0.5}})).await,
        "group does not go with threshold; give one of them"
    );
}

#[tokio::test]
async fn documents_list_it() {
    registered();
    let server = Server::toy().await;
    let models: Value = server.get("/v1/models").await.json().await.unwrap();
    let policies = &models["data"][0]["diffusion"]["policies"];
    let named = |list: &Value, name: &str| list.as_array().unwrap().iter().find(|rule| rule["name"] == name).cloned();
    let oldest = named(&policies["remasking"], "oldest").unwrap();
    assert_eq!(oldest["help"], "The cells that have stood longest.");
    assert_eq!(oldest["knobs"][1]["name"], "patience");
    assert_eq!((&oldest["knobs"][1]["minimum"], &oldest["knobs"][1]["maximum"]), (&json!(1), &json!(65536)));
    assert!(named(&policies["unmasking"], "rightmost").is_some() && named(&policies["paces"], "group").is_some());

    let document: Value = server.get("/openapi.json").await.json().await.unwrap();
    let fields = &document["components"]["schemas"]["Diffusion"]["properties"];
    let forms = fields["remasking"]["oneOf"].as_array().unwrap();
    assert!(forms[0]["enum"].as_array().unwrap().contains(&json!("oldest")));
    let own = forms.iter().find(|form| form["properties"]["policy"]["enum"] == json!(["oldest"])).unwrap();
    assert_eq!(own["properties"]["patience"]["minimum"], 1);
    assert_eq!(own["properties"]["below"]["type"], "null");
    let unmasking = &fields["unmasking"]["oneOf"][1]["properties"];
    assert!(unmasking["order"]["oneOf"][0]["enum"].as_array().unwrap().contains(&json!("rightmost")));
    assert_eq!(unmasking["group"]["minimum"], 1);
}

#[test]
fn the_command_line_has_flags_for_it() {
    registered();
    let mut command = cmd::command();
    let help = command.find_subcommand_mut("infill").unwrap().render_long_help().to_string();
    for text in ["oldest", "The cells that have stood longest", "--remask-patience <N>", "rightmost", "--group <N>"] {
        assert!(help.contains(text), "{text} in {help}");
    }
    let parsed = |args: &[&str]| cmd::command().try_get_matches_from(args).map(drop);
    parsed(&["remask", "infill", "--remasking", "oldest", "--remask-patience", "3", "--group", "2"]).unwrap();
    parsed(&["remask", "eval", "sudoku", "--policies", "off,oldest", "--order", "rightmost"]).unwrap();
    assert!(parsed(&["remask", "infill", "--remasking", "youngest"]).is_err());
}

/// Proofreading that is switched on without numbers is the model's own, and of a model without one
/// it has a step per cell of a block.
#[tokio::test]
async fn proofreading_can_be_switched_on_without_numbers() {
    let hard = "..5.29.3.\n2...3....\n.9.7..8.2\n9..51....\n.849...2.\n32..4..9.\n.3......4\n.........\n....6.759";
    let same = async |server: &Server, base: &Value, all: [Value; 3]| {
        let mut choices = Vec::new();
        for proofreading in all {
            let mut body = base.clone();
            body["diffusion"]["proofreading"] = proofreading;
            let answer = server.answer("/v1/infill", &body).await;
            choices.push((answer["choices"].clone(), answer["diffusion"].clone()));
        }
        assert!(choices.windows(2).all(|pair| pair[0] == pair[1]), "{choices:?}");
        choices.swap_remove(0).1
    };
    let sudoku = json!({"template": hard, "blank": ".", "diffusion": {"remasking": "off"}});
    let own = [json!("on"), json!({}), json!({"steps": 60, "below": 0.8})];
    let counts = same(&Server::sudoku().await, &sudoku, own).await;
    assert!(counts["erased"].as_u64() > Some(0), "{counts}");
    let toy = json!({"template": "Once<blank:44>", "diffusion": {"remasking": "off", "steps": 2}});
    let per_cell = [json!("on"), json!({}), json!({"steps": 44, "below": 0.5})];
    let counts = same(&Server::toy().await, &toy, per_cell).await;
    assert!(counts["erased"].as_u64() > Some(0), "{counts}");
}
