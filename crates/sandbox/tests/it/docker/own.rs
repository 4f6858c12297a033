//! Images that speak the original's protocol.

use serde_json::json;
use serverledge_sandbox::{CallError, Exit};

use super::engine::machine;
use super::image::docker;
use crate::harness::{call, invoke};

#[tokio::test]
async fn an_image_with_a_server_of_its_own_is_called() {
    let machine = machine().await;
    let mut spec = machine.own();
    spec.slots = 2;
    let sandbox = machine.0.create(spec).await.unwrap();
    let mut asked = call(json!({"x": 1}));
    asked.output = true;
    let reply = sandbox.invoke(asked).await.unwrap();
    assert_eq!(reply.output, "said");
    let result: serde_json::Value = serde_json::from_slice(&reply.outcome.unwrap()).unwrap();
    let [result, asked] = result.as_array().unwrap().as_slice() else {
        panic!("{result}");
    };
    assert_eq!(result["params"], json!({"x": 1}));
    assert!(result["uid"].as_u64().unwrap() >= 0x7000_0000, "{result}");
    assert_eq!(
        *asked,
        json!({"Command": null, "Handler": "", "HandlerDir": "", "ReturnOutput": true})
    );
    let failed = invoke(&sandbox, json!({"fail": "why"})).await.unwrap();
    let message = failed.unwrap_err().message;
    assert!(message.contains("ValueError('why')"), "{message}");
    // As many calls at once as there are slots.
    let one = || invoke(&sandbox, json!({"sleep": 0.3}));
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert!(a.unwrap().is_ok() && b.unwrap().is_ok());
    assert!(matches!(c, Err(CallError::Protocol(_))), "{c:?}");
    let wrong = invoke(&sandbox, json!({"raw": "<html>"})).await;
    assert!(matches!(wrong, Err(CallError::Protocol(_))), "{wrong:?}");
    match invoke(&sandbox, json!({"exit": 5, "print": "bye"})).await {
        Err(CallError::Died(cause)) => {
            assert_eq!(
                (cause.exit, cause.last_output.lines().last()),
                (Exit::Code(5), Some("bye"))
            );
        }
        other => panic!("{other:?}"),
    }
    machine.0.backend.shutdown().await;
    assert_eq!(machine.containers(), Vec::<String>::new());
}

#[tokio::test]
async fn its_network_leads_nowhere() {
    let machine = machine().await;
    let one = machine.0.create(machine.own()).await.unwrap();
    let name = machine.containers().remove(0);
    let other = machine.0.create(machine.own()).await.unwrap();
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = docker(&["inspect", "--format", format, &name]);
    let connects = async |sandbox, host: &str, port: u16| {
        let asked = json!({"connect": [host, port]});
        invoke(sandbox, asked).await.unwrap().unwrap()[0] == json!(true)
    };
    assert!(connects(&one, address.trim(), 8080).await, "to itself");
    assert!(!connects(&other, address.trim(), 8080).await, "to another");
    // Nobody is there, but the way ends before that is known.
    assert!(!connects(&other, "192.0.2.1", 80).await, "outside");
    drop((one, other));
    machine.0.backend.shutdown().await;
    let networks = docker(&["network", "ls", "--format", "{{.Name}}"]);
    let ours = name.rsplit_once('-').unwrap().0;
    assert!(
        !networks.lines().any(|network| network == ours),
        "{networks}"
    );
}
