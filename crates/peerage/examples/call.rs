//! Calls `billing`, wherever on the network it is: `cargo run -p peerage --example call`.
#![expect(clippy::print_stdout, reason = "an example shows what it got")]

use peerage::Mesh;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mesh = Mesh::builder().build()?;
    let billing = mesh.client("billing")?;
    let answer = billing.get("/v1/invoices/7").send().await?.error_for_status()?;
    println!("{}", answer.text().await?);
    Ok(())
}
