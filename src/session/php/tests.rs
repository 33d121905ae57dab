use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

/// Runs a PHP program with `input` on its standard input. PHP is required here (`scripts/test` installs it): a codec that was
/// compared with nothing proves nothing.
fn php(program: &str, input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("php")
        .args([
            "-d",
            "session.use_cookies=0",
            "-d",
            "session.cache_limiter=",
            "-d",
            "session.serialize_handler=php",
            "-d",
            "session.gc_probability=0",
            "-d",
            "serialize_precision=-1",
            "-r",
        ])
        .arg(format!(
            "class Nowhere implements SessionHandlerInterface {{
                function open($p, $n): bool {{ return true; }} function close(): bool {{ return true; }}
                function read($i): string {{ return ''; }} function write($i, $d): bool {{ return true; }}
                function destroy($i): bool {{ return true; }} function gc($m): int {{ return 0; }}
            }}
            session_set_save_handler(new Nowhere(), false); session_start(); {program}"
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("php (package php-cli) must be installed for this test");
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && errors.is_empty(),
        "php failed: {errors}"
    );
    output.stdout
}

fn text(text: &str) -> PhpValue {
    PhpValue::Str(text.as_bytes().to_vec())
}

fn samples() -> Vec<(&'static str, PhpValue)> {
    let array = |entries: Vec<(&str, PhpValue)>| {
        PhpValue::Array(
            entries
                .into_iter()
                .map(|(k, v)| (PhpKey::of_text(k.as_bytes()), v))
                .collect(),
        )
    };
    let floats = [
        0.1,
        1e15,
        1e16,
        1e17,
        0.0001,
        1.5e-5,
        -0.0,
        1.0 / 3.0,
        1e100,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -1.5,
        100_000.0,
        1e-7,
        12_345_678_901_234_567_890.0,
        f64::MAX,
        5e-324,
        123_456_789_012_345_680.0,
    ];
    vec![
        ("nothing", PhpValue::Null),
        ("yes", PhpValue::Bool(true)),
        ("no", PhpValue::Bool(false)),
        ("min", PhpValue::Int(i64::MIN)),
        ("max", PhpValue::Int(i64::MAX)),
        ("anarana é 名", text("Ünïcödé \"|;{}\n")),
        ("bytes", PhpValue::Str(vec![0, 255, b'|', b'"', b';'])),
        ("empty", text("")),
        ("list", array(vec![("0", text("a")), ("1", PhpValue::Int(2))])),
        (
            "map",
            array(vec![
                ("z", PhpValue::Null),
                ("a", text("x")),
                ("-7", text("neg")),
                ("07", text("text")),
            ]),
        ),
        (
            "nested",
            array(vec![("in", array(vec![("deep", array(vec![]))]))]),
        ),
        (
            "floats",
            PhpValue::Array(
                (0i64..)
                    .map(PhpKey::Int)
                    .zip(floats.map(PhpValue::Float))
                    .collect(),
            ),
        ),
    ]
}

fn encode(values: &[(&str, PhpValue)]) -> Vec<u8> {
    let variables: Vec<Variable> = values
        .iter()
        .map(|(n, v)| Variable::new(n.as_bytes(), v))
        .collect();
    join(&variables)
}

#[test]
fn php_reads_and_writes_the_same_bytes() {
    let ours = encode(&samples());
    let theirs = php(
        "if (!session_decode(stream_get_contents(STDIN))) { exit(3); } echo session_encode();",
        &ours,
    );
    assert_eq!(String::from_utf8_lossy(&theirs), String::from_utf8_lossy(&ours));
    let read_back: Vec<(String, PhpValue)> = split(&theirs)
        .unwrap()
        .into_iter()
        .map(|v| (String::from_utf8(v.name).unwrap(), read(&v.serialized).unwrap()))
        .collect();
    let expected: Vec<(String, PhpValue)> = samples().into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
    assert_eq!(read_back, expected);
}

#[test]
fn what_php_writes_is_kept_whatever_it_is() {
    let data = php(
        r#"enum Suit: string { case Hearts = 'H'; }
           $_SESSION = ['a' => null, 'o' => new ArrayObject([1, 'k' => "v|;}"]), 'd' => new DateTimeImmutable('2026-01-31'),
             'e' => Suit::Hearts, 'l' => new SplObjectStorage(), 'nan' => NAN, "b\xff" => "\xff"];
           $_SESSION['in'] = ['x' => ['deep' => $_SESSION['o']]]; $_SESSION['twice'] = [$_SESSION['d'], $_SESSION['d']];
           $shared = 5; $_SESSION['r1'] = [&$shared]; $_SESSION['r2'] = [&$shared];
           echo session_encode();"#,
        b"",
    );
    let variables = split(&data).unwrap();
    assert_eq!(variables.len(), 11, "{}", String::from_utf8_lossy(&data));
    assert_eq!(join(&variables), data);
    for variable in &variables {
        let mut again = Vec::new();
        write(&read(&variable.serialized).unwrap(), &mut again);
        assert_eq!(again, variable.serialized);
    }
    let value = |name: &str| {
        let found = variables.iter().find(|v| v.name == name.as_bytes()).unwrap();
        read(&found.serialized).unwrap()
    };
    assert!(matches!(value("o"), PhpValue::Raw(_)) && matches!(value("e"), PhpValue::Raw(_)));
    assert!(refers(&value("r2")) && refers(&value("twice")) && !refers(&value("a")));
}

#[test]
fn damaged_data_is_an_error() {
    let good = encode(&samples());
    assert!(split(b"").unwrap().is_empty());
    // Cut anywhere but between two variables.
    let ends: Vec<usize> = (0..samples().len())
        .map(|n| encode(&samples()[..n]).len())
        .collect();
    for cut in 1..good.len() {
        assert_eq!(split(&good[..cut]).is_ok(), ends.contains(&cut), "cut at {cut}");
    }
    for bad in [
        &b"a"[..],
        b"a|",
        b"a|x:1;",
        b"a|i:;",
        b"a|i:1.5;",
        b"a|b:2;",
        b"a|d:x;",
        b"a|s:9:\"x\";",
        b"a|s:-1:\"\";",
        b"a|s:18446744073709551615:\"\";",
        b"a|a:1:{}",
        b"a|a:99999999999:{i:0;N;}",
        b"a|a:1:{N;N;}",
        b"a|N;a|N;",
        b"a|O:1:\"A\":0:{",
        b"a|C:1:\"A\":99:{}",
        b"a|r:x;",
        b"{\"a\":1}",
        b"\0\0\0",
    ] {
        assert!(split(bad).is_err(), "{}", String::from_utf8_lossy(bad));
    }
    let deep = [b"a|".as_slice(), &b"a:1:{i:0;".repeat(100_000)].concat();
    assert!(split(&deep).is_err());
    assert!(read(b"i:1;i:2;").is_err());
}
