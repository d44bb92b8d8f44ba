//! An actor that uses every part of the guest library, for the tests of that library.

use guest::http::{Request, Response};
use guest::keyvalue::Store;
use guest::{host, logging, numbergen, Result};

guest::actor! {
    "Probe.Numbers" => numbers,
    "Probe.Unsigned" => unsigned,
    "Probe.Texts" => texts,
    "Probe.Text" => text,
    "Probe.Boolean" => boolean,
    "Probe.Nothing" => nothing,
    "Probe.Fails" => fails,
    "Probe.Panics" => panics,
    "Probe.KeyValue" => keyvalue,
    "Probe.Log" => log,
    "Probe.Random" => random,
    "Probe.Actor" => actor,
    "HttpServer.HandleRequest" => header,
}

fn numbers(values: Vec<i64>) -> Result<Vec<i64>> {
    Ok(values)
}

fn unsigned(values: Vec<u64>) -> Result<Vec<u64>> {
    Ok(values)
}

fn texts(values: Vec<String>) -> Result<Vec<String>> {
    Ok(values)
}

fn text(value: &str) -> Result<String> {
    Ok(value.into())
}

fn boolean(value: bool) -> Result<bool> {
    Ok(!value)
}

fn nothing(_: ()) -> Result<()> {
    Ok(())
}

fn fails(reason: String) -> Result<()> {
    Err(reason.into())
}

fn panics(index: u32) -> Result<u32> {
    let values = [1, 2, 3];
    Ok(values[index as usize])
}

/// Each result as a line of text.
fn keyvalue(_: ()) -> Result<Vec<String>> {
    let store = Store::linked("second");
    store.set("k", "v", 60)?;
    guest::keyvalue::set("d", "v")?;
    Ok(vec![
        format!("{:?}", store.get("k")?),
        format!("{:?}", guest::keyvalue::get("absent")?),
        format!("{}", store.contains("k")?),
        format!("{}", store.del("k")?),
        format!("{}", store.increment("n", -200)?),
        format!("{}", store.list_add("l", "x")?),
        format!("{}", store.list_del("l", "x")?),
        format!("{:?}", store.list_range("l", 0, -1)?),
        format!("{}", store.list_clear("l")?),
        format!("{}", store.set_add("s", "x")?),
        format!("{}", store.set_del("s", "x")?),
        format!("{:?}", store.set_query("s")?),
        format!("{:?}", store.set_intersection(&["s", "t"])?),
        format!("{:?}", store.set_union(&["s", "t"])?),
        format!("{}", store.set_clear("s")?),
    ])
}

fn log(line: String) -> Result<()> {
    logging::debug(&line)?;
    logging::info(&line)?;
    logging::warn(&line)?;
    logging::error(&line)
}

fn random(_: ()) -> Result<Vec<String>> {
    let number = numbergen::random_32()?;
    let dice = numbergen::random_in_range(1, 6)?;
    Ok(vec![numbergen::guid()?, number.to_string(), dice.to_string()])
}

fn actor(alias: String) -> Result<String> {
    host::call_actor(&alias, "Pingpong.Ping", &())
}

fn header(request: Request) -> Result<Response> {
    let all = request.header.all("accept").join("|");
    let one = request.header.get("host").unwrap_or("none");
    Ok(Response::text(201, &format!("{one} {all}")).with("x-probe", "1").with("x-probe-2", "\u{e9}"))
}
