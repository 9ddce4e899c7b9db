//! What administrators wrote: the file of run-time changes, and a site that is to be run.

use std::{str, sync::Arc};

use super::{
    change::changes,
    event::Link,
    overrides::{self, Overrides},
    plan::plan,
    render::{Tables, render, sweep_settings},
    state::DesiredState,
    testing,
};
use crate::{
    config::{self, model::Config},
    dataplane::image::Image,
};

/// Pools of a site: each has a table that takes time to draw.
const MOST_POOLS: usize = 4;

/// The file of run-time changes is understood and keeps its meaning when it is written again, or
/// is refused with a reason.
pub(crate) fn overrides(data: &[u8]) {
    match overrides::read(data) {
        Ok(read) => {
            let written = overrides::written(&read).expect("JSON can be written");
            assert_eq!(overrides::read(&written), Ok(read));
        }
        Err(fault) => assert!(!fault.is_empty(), "a reason is missing"),
    }
}

/// A configuration that can be run is carried out; then nothing is left to do, neither for this
/// daemon nor for one that takes over.
pub(crate) fn site(data: &[u8]) {
    let Some(config) = str::from_utf8(data).ok().and_then(runnable) else {
        return;
    };
    let links: Vec<Link> = (testing::ETH0..)
        .zip(&config.node.interfaces)
        .map(|(index, name)| Link {
            name: name.clone(),
            index,
            ..testing::link()
        })
        .collect();
    let made = testing::new_maps(&config);
    let start = |image: &Image, adopted| {
        DesiredState::start(
            Arc::clone(&config),
            image,
            adopted,
            links.clone(),
            Overrides::default(),
            testing::now(),
        )
    };
    let Ok(mut state) = start(&made, false) else {
        return;
    };
    testing::all_serve(&mut state);

    let mut tables = Tables::default();
    let carried_out = plan(&made, render(&state, &mut tables)).outcome;
    assert_nothing_left(&carried_out, &state, &mut tables);
    let _ = sweep_settings(&state, &carried_out);

    let mut former = testing::running(testing::ras());
    if former.reload(Arc::clone(&config), testing::now()).is_ok() {
        let reloaded = render(&former, &mut tables);
        let outcome = plan(&carried_out, reloaded).outcome;
        assert_nothing_left(&outcome, &former, &mut tables);
        assert!(
            changes(&state, &state.clone()).is_empty(),
            "nothing changed"
        );
    }

    let taken_over = start(&carried_out, true).expect("the maps were made for this configuration");
    assert_nothing_left(&carried_out, &taken_over, &mut tables);
}

fn runnable(text: &str) -> Option<Arc<Config>> {
    let config = config::parse(text).ok()?;
    let small = config.pools.len() <= MOST_POOLS;
    (small && config::require_built(&config).is_ok()).then(|| Arc::new(config))
}

fn assert_nothing_left(present: &Image, state: &DesiredState, tables: &mut Tables) {
    let rest = plan(present, render(state, tables)).operations;
    assert_eq!(rest, [], "maps that are right are written again");
}
