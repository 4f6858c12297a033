//! Expressions that mean harm end with an error, on the small stack that tests have.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that can't go on should fail, loudly and at the line"
)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use serverledge_asl::jsonata::{Environment, Error, Expression, Flavour};

fn evaluate(expr: &str) -> Result<Option<Value>, Error> {
    let mut environment = Environment::new(Flavour::Plain, 0, 0);
    // Less than by default, so that the tests are quick without optimisation too.
    environment.limits.steps = 500_000;
    let expression = Expression::parse_as(expr, Flavour::Plain)?;
    let data = json!({"a": {"b": [1, 2]}});
    expression.evaluate_with_input(Some(&data), &BTreeMap::new(), &mut environment)
}

fn check(expr: &str, code: &str) {
    match evaluate(expr) {
        Ok(result) => panic!("{expr:.60}: {result:?}"),
        Err(error) => assert_eq!(error.code, code, "{expr:.60}: {error}"),
    }
}

#[test]
fn recursion_without_end() {
    check("($f := function($n){1 + $f($n)}; $f(1))", "U1001");
    check(
        "($f := function($n){$n + $g($n)}; $g := function($n){[$f($n)]}; $f(1))",
        "U1001",
    );
    check("($f := function($n){$map([$n], $f)}; $f(1))", "U1001");
    check(
        "(function($f){$f($f) & 1})(function($f){$f($f) & 1})",
        "U1001",
    );
    check("($e := \"$eval($e)\"; $eval($e))", "U1001");
}

#[test]
fn loops_without_end() {
    check("($f := function($n){$f($n + 1)}; $f(1))", "U1001");
    check(
        "($f := function(){$g()}; $g := function(){$f()}; $f())",
        "U1001",
    );
    check(
        "($f := function($n){($x := $n; true ? $f($x))}; $f(1))",
        "U1001",
    );
    let next = "$m := function(){{\"match\": \"\", \"start\": 0, \"end\": 0, \"groups\": [], \"next\": $m}}";
    check(&format!("({next}; $match(\"a\", $m))"), "U1001");
}

#[test]
fn deep_nesting() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("-", ""),
        ("{\"a\":", "}"),
        ("a[", "]"),
        ("$f(", ")"),
    ] {
        let text = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        check(&text, "U1001");
    }
    check(&format!("1{}", "+1".repeat(100_000)), "U1001");
    check(&format!("a{}", "[0]".repeat(100_000)), "U1001");
    check(&format!("a{}", ".b".repeat(100_000)), "U1001");
    check(&"function(){".repeat(100_000), "U1001");
    assert_eq!(
        evaluate(&format!("1{}", "+1".repeat(1000))).unwrap(),
        Some(json!(1001))
    );
    assert_eq!(
        evaluate(&format!("{}1{}", "(".repeat(300), ")".repeat(300))).unwrap(),
        Some(json!(1))
    );
}

#[test]
fn deep_values() {
    check(
        "($f := function($n, $v){$n = 0 ? $v : $f($n - 1, [[$v], 1])}; $f(20000, 1))",
        "U1001",
    );
    check(
        "($f := function($n, $v){$n = 0 ? $v : $f($n - 1, {\"a\": $v})}; $f(20000, 1))",
        "U1001",
    );
    check(
        "($f := function($n, $v){$n = 0 ? $v : $f($n - 1, $v ~> $string)}; $f(20000, $sum))",
        "U1001",
    );
    // A chain of closures is no nesting: each holds its own variables only.
    let chain =
        "($f := function($n, $g){$n = 0 ? $g : $f($n - 1, function(){$g})}; $type($f(5000, 1)))";
    assert_eq!(evaluate(chain).unwrap(), Some(json!("function")));
    let depth = "($f := function($n, $v){$n = 0 ? $v : $f($n - 1, [[$v]])}; $string($f(900, 1)))";
    assert_eq!(
        evaluate(depth).unwrap().unwrap().as_str().unwrap().len(),
        1803
    );
}

#[test]
fn huge_values() {
    check("[1..1000000000]", "D2014");
    check("[1..1e300]", "D2014");
    check("[-1e300..1e300]", "D2014");
    check("[1..1000].[1..1000000]", "U1001");
    check("$pad(\"a\", 1e9)", "U1001");
    check("$pad(\"a\", -1e300)", "U1001");
    check("[1..1000].$pad(\"a\", 10000000)", "U1001");
    check(
        "($f := function($s, $n){$n = 0 ? $s : $f($s & $s, $n - 1)}; $f(\"abcdefgh\", 60))",
        "U1001",
    );
    check(
        "($f := function($s, $n){$n = 0 ? $s : $f($append($s, $s), $n - 1)}; $f([1], 60))",
        "U1001",
    );
    check(
        "$join([1..100000].(\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"), $pad(\"b\", 100000))",
        "U1001",
    );
    check(
        "$replace($pad(\"a\", 100000, \"a\"), \"a\", $pad(\"b\", 100000))",
        "U1001",
    );
    check("$formatNumber(1, $pad(\"0\", 10000000, \"0\"))", "U1001");
    check("$distinct([1..1000000])", "U1001");
    check("$fromMillis(1e300)", "D3110");
    check(
        "$zip([1..1000000], [1..1000000], [1..1000000], [1..1000000], [1..1000000])",
        "U1001",
    );
    assert!(evaluate("$fromMillis(0, \"[Y,1000000000-1000000000]\")").is_ok());
    assert!(evaluate("$formatInteger(1e300, \"w\")").is_ok());
    assert!(evaluate("$formatInteger(1e300, \"I\")").is_ok());
    assert!(evaluate("$formatBase(1.7e308, 2)").is_ok());
    assert!(evaluate("$round(1.5, 1e300)").is_ok());
    assert!(evaluate("$substring(\"abc\", -1e300, 1e300)").is_ok());
}

#[test]
fn the_result_is_limited() {
    let expression = Expression::parse_as("[1..100000]", Flavour::Plain).unwrap();
    let mut environment = Environment::new(Flavour::Plain, 0, 0);
    environment.limits.bytes = 1000;
    let error = expression
        .evaluate(&BTreeMap::new(), &mut environment)
        .unwrap_err();
    assert_eq!(error.code, "U1001");
}

#[test]
fn hostile_regular_expressions() {
    let subject = "$pad(\"a\", 5000, \"a\") & \"b\"";
    assert_eq!(
        evaluate(&format!("$contains({subject}, /^(a+)+$/)")).unwrap(),
        Some(json!(false))
    );
    assert_eq!(
        evaluate(&format!("$contains({subject}, /(a|aa)+$/)")).unwrap(),
        Some(json!(false))
    );
    check("/(((a{100}){100}){100}){100}/", "S0303");
    check(
        &format!("/{}a{}/", "(".repeat(5000), ")".repeat(5000)),
        "S0303",
    );
    check("/(?<=a)b/", "S0303");
}

#[test]
fn contradictory_comparators() {
    assert!(evaluate("$sort([1..100], function($a, $b){true})").is_ok());
    assert!(evaluate("$sort([1..100], function($a, $b){$random() > 0.5})").is_ok());
    assert!(evaluate("[1..100]^($random())").is_ok());
}
