//! The pages, as a person with a browser sees them, through both instances.

use crate::browser::{Browser, NAMES, send};
use crate::support::{assert_identical, connect, instances, number, rows, side};

/// The number at the end of the address that an answer leads to.
fn id_in(location: &str) -> i64 {
    location.rsplit('/').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn items_from_creation_to_deletion_in_every_script() {
    let (stack, [web1, web2]) = instances().await;
    let person = Browser::new();
    person.open(&web1, "/items").await.must_say("No item yet.");

    let mut ids = Vec::new();
    for (n, name) in NAMES.into_iter().enumerate() {
        let (here, there) = if n % 2 == 0 {
            (&web1, &web2)
        } else {
            (&web2, &web1)
        };
        let form = person.open(here, "/items/new").await.form("/items");
        // A browser sends the line ends of a text area as CR LF.
        let form = form
            .with("name", name)
            .with("content", &format!("{name}\r\n\r\n{name}"));
        let answer = person.post(here, &form).await;
        assert_eq!(answer.status, 303, "{}", answer.text());
        assert_eq!(answer.header("x-op-id"), form.get("op_id"));
        assert_eq!(
            answer.header("x-instance"),
            if n % 2 == 0 { "web1" } else { "web2" }
        );
        let id = id_in(answer.header("location"));
        // The message was left by one instance and is shown by the other, once.
        let shown = person.open(there, answer.header("location")).await;
        shown.must_say(&format!("Item {id} is saved."));
        shown.must_say(name);
        assert!(
            !person
                .open(there, answer.header("location"))
                .await
                .says("is saved")
        );
        person
            .open(here, &format!("/items?search={}", id_free(name)))
            .await
            .must_say(name);
        ids.push(id);
    }
    for dsn in ["a", "b"].map(|name| stack.dsn(side(name))) {
        let sql = "SELECT convert_to(name, 'UTF8'), convert_to(content, 'UTF8') FROM items ORDER BY id";
        let stored = connect(&dsn).await.unwrap().query(sql, &[]).await.unwrap();
        for (row, name) in stored.iter().zip(NAMES) {
            assert_eq!(row.get::<_, &[u8]>(0), name.as_bytes());
            assert_eq!(
                row.get::<_, &[u8]>(1),
                format!("{name}\n\n{name}").as_bytes(),
                "line ends of the browser"
            );
        }
        assert_eq!(stored.len(), NAMES.len());
    }

    // Nobody who opens a form and sends it back unchanged changes anything but the time.
    let here = format!("/items/{}", ids[6]);
    let form = person.open(&web1, &format!("{here}/edit")).await.form(&here);
    assert_eq!(form.get("name"), NAMES[6]);
    person
        .submit(&web2, &form)
        .await
        .must_say(&format!("Item {} is changed.", ids[6]));
    let changed = form
        .with("op_id", &uuid::Uuid::now_v7().to_string())
        .with("name", "renamed");
    person.submit(&web1, &changed).await.must_say("renamed");
    let renamed = rows(
        &stack.dsn(side("b")),
        "SELECT name, content FROM items WHERE name = 'renamed'",
    )
    .await;
    assert_eq!(renamed.len(), 1);
    assert!(renamed[0].contains("<script>"), "{renamed:?}");

    // Deleting asks first, and a deleted row is gone everywhere.
    let confirm = person.open(&web2, &format!("{here}/delete")).await;
    confirm.must_say("It will be deleted from every database.");
    let form = confirm.form(&format!("{here}/delete"));
    person
        .submit(&web1, &form)
        .await
        .must_say(&format!("Item {} is deleted.", ids[6]));
    for path in ["", "/edit", "/delete"] {
        let gone = person.get(&web2, &format!("{here}{path}")).await;
        assert_eq!(gone.status, 404);
        gone.must_say(&format!("Item {} does not exist", ids[6]));
    }
    let count = "SELECT count(*) FROM items";
    for name in ["a", "b"] {
        assert_eq!(
            number(&stack.dsn(side(name)), count).await,
            NAMES.len() as i64 - 1
        );
    }
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

/// A name percent-encoded for an address.
fn id_free(name: &str) -> String {
    name.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test]
async fn every_page_in_both_languages_with_errors_beside_their_fields() {
    let (stack, [web1, web2]) = instances().await;
    let person = Browser::new();
    for n in 1..=3 {
        let form = person.open(&web1, "/servers/new").await.form("/servers");
        assert_eq!(form.get("active"), "true", "a new server is active");
        let form = form
            .with("name", &format!("server {n}"))
            .with("host", &format!("h{n}.example"))
            .with("port", &(8000 - n).to_string());
        person
            .submit(&web2, &form)
            .await
            .must_say(&format!("h{n}.example"));
    }
    let form = person.open(&web1, "/items/new").await.form("/items");
    let item = person.post(&web1, &form.with("name", "an item")).await;
    let item = item.header("location").to_owned();
    let server = "/servers/1";

    let pages = [
        ("/", "Your session", "Votre session"),
        ("/items", "Export CSV", "Exporter en CSV"),
        ("/items/new", "New item", "Nouvel élément"),
        (&item, "Changed", "Modifié"),
        (&format!("{item}/edit"), "Edit item", "Modifier l’élément"),
        (&format!("{item}/delete"), "Yes, delete", "Oui, supprimer"),
        ("/items/import", "Import items", "Importer des éléments"),
        ("/servers", "Servers", "Serveurs"),
        ("/servers/new", "New server", "Nouveau serveur"),
        (server, "Server 1", "Serveur 1"),
        (
            &format!("{server}/edit"),
            "Edit server 1",
            "Modifier le serveur 1",
        ),
        (
            &format!("{server}/delete"),
            "Delete server 1?",
            "Supprimer le serveur 1 ?",
        ),
        ("/servers/import", "Import servers", "Importer des serveurs"),
        ("/cluster", "a active, b active", "a active, b active"),
        ("/journal", "Cluster", "Grappe"),
        ("/compare", "kambana compare", "kambana compare"),
    ];
    for (path, english, french) in pages {
        for (lang, text) in [("en", english), ("fr", french)] {
            let page = send(
                person
                    .request("GET", &format!("{web1}{path}"))
                    .header("Accept-Language", format!("{lang}-XX,de;q=0.5")),
            )
            .await;
            assert_eq!(
                (page.status, page.header("content-language")),
                (200, lang),
                "{path}"
            );
            page.must_say(text);
            let answered = if lang == "en" {
                "Answered by web1"
            } else {
                "Réponse de web1"
            };
            page.must_say(answered);
            assert!(
                page.header("content-security-policy")
                    .contains("script-src 'self'"),
                "{path}"
            );
            assert_eq!(page.header("x-instance"), "web1");
            let head = send(person.request("HEAD", &format!("{web2}{path}"))).await;
            assert_eq!((head.status, head.bytes.len()), (200, 0), "HEAD {path}");
        }
    }
    // A chosen language stays, through the other instance too.
    let visitor = Browser::new();
    visitor.open(&web1, "/items?lang=fr").await.must_say("Éléments");
    visitor.open(&web2, "/servers").await.must_say("Serveurs");

    // Lists: sorted both ways, searched, and the search is kept when sorting.
    let ids = async |query: &str| person.open(&web2, &format!("/servers?{query}")).await.ids();
    assert_eq!(ids("sort=name&order=desc").await, sorted(&ids("").await, true));
    assert_eq!(ids("sort=host").await, sorted(&ids("").await, false));
    assert_eq!(ids("search=h2.EXAMPLE").await.len(), 1);
    person
        .open(&web1, "/servers?search=100%25")
        .await
        .must_say("Nothing contains “100%”.");

    // The switch in the list: its own operation for each row, and back to the list as it was.
    let list = person.open(&web1, "/servers?search=server+1").await;
    let id = list.ids()[0];
    let mut switch = list.form("/servers").with("active", "false");
    switch.action = format!("/servers/{id}/active");
    let back = person.post(&web2, &switch).await;
    assert_eq!(
        (back.status, back.header("location")),
        (303, "/servers?search=server+1")
    );
    person
        .open(&web1, back.header("location"))
        .await
        .must_say(&format!("Server {id} is inactive."));
    let active = format!("SELECT count(*) FROM servers WHERE NOT active AND id = {id}");
    for name in ["a", "b"] {
        assert_eq!(number(&stack.dsn(side(name)), &active).await, 1, "side {name}");
    }

    // What is wrong stands beside its field, and nothing that was typed is lost.
    let typed = person
        .open(&web1, "/servers/new")
        .await
        .form("/servers")
        .with("name", " ")
        .with("host", "no host!")
        .with("port", "65536")
        .without("active");
    let before = crate::support::dump(&stack.dsn(side("a"))).await.len();
    for lang in ["en", "fr"] {
        let page = person
            .request("POST", &format!("{web2}/servers"))
            .header("Accept-Language", lang)
            .header("Cookie", person.cookies(&web2));
        let page = send(page.form(&typed.fields)).await;
        assert_eq!(page.status, 422);
        let error = |field| {
            page.error_beside(field)
                .unwrap_or_else(|| panic!("{}", page.text()))
        };
        if lang == "en" {
            page.must_say("Nothing was saved yet");
            assert_eq!(error("name"), "Please fill this in.");
            assert_eq!(error("port"), "A port is a number from 1 to 65535.");
        } else {
            assert_eq!(error("name"), "Merci de remplir ce champ.");
            assert_eq!(error("host"), "Ce n’est ni un nom d’hôte ni une adresse.");
        }
        let again = page.form("/servers");
        assert_eq!((again.get("host"), again.get("port")), ("no host!", "65536"));
        assert_eq!(
            again.get("op_id"),
            typed.get("op_id"),
            "it is still the same form"
        );
        assert!(
            again.fields.iter().all(|(name, _)| name != "active"),
            "the box stays unticked"
        );
    }
    assert_eq!(crate::support::dump(&stack.dsn(side("a"))).await.len(), before);
    // The corrected form is the first that does anything.
    let again = typed
        .with("name", "good")
        .with("host", "::1")
        .with("port", "65535");
    person.submit(&web1, &again).await.must_say("::1");

    // What has no page says so.
    for (path, status) in [("/nothing", 404), ("/items/0", 404), ("/ops/x", 400)] {
        assert_eq!(person.get(&web1, path).await.status, status, "{path}");
    }
    let moved = person.get(&web1, "/items/").await;
    assert_eq!((moved.status, moved.header("location")), (308, "/items"));
    let opened = person.get(&web1, "/session/set").await;
    assert_eq!(opened.status, 405);
    opened.must_say("takes a form only");
    assert_identical(&stack).await;
    stack.stop().await.unwrap();
}

fn sorted(ids: &[i64], descending: bool) -> Vec<i64> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    if descending {
        ids.reverse();
    }
    ids
}
