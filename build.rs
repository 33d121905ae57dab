//! Compresses the files of `static/` once, and makes the table that `web::pages::assets` includes.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::{env, fs};

use flate2::Compression;
use flate2::write::GzEncoder;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=static");
    let out = env::var("OUT_DIR")?;
    let folder = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("static");
    let mut files: Vec<_> = fs::read_dir(&folder)?
        .map(|file| file.map(|file| file.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    let mut table = String::from("&[\n");
    for path in files {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or("a file name that is not UTF-8")?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&fs::read(&path)?)?;
        let compressed = Path::new(&out).join(format!("{name}.gz"));
        fs::write(&compressed, gzip.finish()?)?;
        writeln!(
            table,
            "    File {{ name: {name:?}, plain: include_bytes!({path:?}), gzip: include_bytes!({compressed:?}) }},"
        )?;
    }
    table.push_str("]\n");
    fs::write(Path::new(&out).join("assets.rs"), table)?;
    Ok(())
}
