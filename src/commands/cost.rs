//! What a run costs, in both accounts, with what its source cost.

use scale_ckpt::account::Account;
use scale_ckpt::recipe::Recipe;
use serde_json::{Value, json};

use super::start::Start;

/// What the run adds and what stands behind it in all, in both accounts.
pub fn cost(recipe: &Recipe, start: &Start, account: &Account) -> Value {
    let stages: Vec<Value> = start
        .stages
        .iter()
        .map(|planned| {
            json!({ "name": planned.name, "n_layer": planned.n_layer, "cost": account.of_stage(planned.stage.index) })
        })
        .collect();
    let additional = account.total();
    let (source, note) = start.source_cost(recipe);
    json!({
        "stages": stages,
        "additional": additional,
        "source_flops": source,
        "source_note": note,
        "total_flops": source.map(|source| source + additional.flops),
    })
}

/// [`cost`] in one line.
pub fn cost_line(cost: &Value) -> String {
    let number = |value: &Value| {
        value
            .as_f64()
            .map_or_else(|| "unknown".into(), |x| format!("{x:.3e}"))
    };
    format!(
        "cost: {} FLOPs of training, {} with the source ({}); {} layer passes in the account of arXiv 2411.18700",
        number(&cost["additional"]["flops"]),
        number(&cost["total_flops"]),
        cost["source_note"].as_str().unwrap_or_default(),
        number(&cost["additional"]["layer_passes"]),
    )
}
