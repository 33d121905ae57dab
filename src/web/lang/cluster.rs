//! Texts of the cluster, journal and comparison pages.

use super::texts;

texts! {
/// Databases, membership and journal.
ClusterTexts {
    title: "Databases" => "Bases de données";
    lead: "As {0} sees them now." => "Telles que {0} les voit maintenant.";
    whole: "All databases hold the same content." => "Toutes les bases ont le même contenu.";
    not_whole: "Not all databases are in use." => "Certaines bases ne sont pas utilisées pour l’instant.";
    refresh_on: "Refresh every 2 seconds" => "Actualiser toutes les 2 secondes";
    refresh_off: "Stop refreshing" => "Ne plus actualiser";
    side: "Database {0}" => "Base {0}";
    leader: "leader" => "meneuse";
    active: "active" => "active";
    out: "out" => "hors service";
    catching_up: "catching up" => "en rattrapage";
    rebuilding: "rebuilding" => "en reconstruction";
    rebuild_begins: "It is being copied from a living database." => "Elle est recopiée depuis une base vivante.";
    rebuilt: "Rebuilding: {0}, {1} rows of about {2}" => "Reconstruction : {0}, {1} lignes sur environ {2}";
    address: "Address" => "Adresse";
    version: "PostgreSQL" => "PostgreSQL";
    heartbeat: "Heartbeat" => "Battement";
    milliseconds: "{0} ms" => "{0} ms";
    seen: "Last answer" => "Dernière réponse";
    never: "never" => "jamais";
    open_rows: "Open journal rows" => "Lignes de journal ouvertes";
    unknown: "unknown" => "inconnu";
    fault: "Trouble" => "Problème";
    caught_up: "{0} rows brought over in this attempt" => "{0} lignes reportées lors de cette tentative";
    progress: "Catching up" => "Rattrapage";
    membership: "Membership" => "Composition";
    epoch: "Epoch" => "Époque";
    members: "Active databases" => "Bases actives";
    none: "none" => "aucune";
    writes: "Changes" => "Changements";
    writable: "accepted" => "acceptés";
    refused: "refused: {0}" => "refusés : {0}";
    waiting: "Waiting changes" => "Changements en attente";
    instance: "Instance" => "Instance";
    events: "What happened" => "Ce qui s’est passé";
    no_events: "Nothing since this instance started." => "Rien depuis le démarrage de cette instance.";
    journal_link: "Journal" => "Journal";
    compare_link: "Compare" => "Comparer";

    fault_down: "does not answer: {0}" => "ne répond pas : {0}";
    fault_silent: "accepts connections but does not answer (frozen or unreachable)" => "accepte les connexions mais ne répond pas (gelée ou injoignable)";
    fault_refused: "refuses us: {0}" => "nous refuse : {0}";
    fault_unfit: "cannot be used: {0}" => "inutilisable : {0}";
    fault_behind: "answers again, waits to be caught up" => "répond de nouveau, attend d’être remise à jour";

    fault_lost: "has to be rebuilt from a living database: {0}" => "à reconstruire depuis une base vivante : {0}";
    loss_empty: "it is a new or an emptied database" => "c’est une base neuve ou vidée";
    loss_stripped: "it has tables, but schema kambana is missing" => "elle a des tables, mais le schéma kambana manque";
    loss_restored: "it lacks changes that it had before: it was restored from an older backup" => "il lui manque des changements qu’elle avait : elle vient d’une sauvegarde plus ancienne";
    loss_too_old: "it was out for too long, the journal no longer holds what it misses" => "elle est restée absente trop longtemps, le journal n’a plus ce qui lui manque";
    loss_unfinished: "an earlier rebuild of it has not ended" => "une reconstruction antérieure n’est pas terminée";
    loss_asked: "somebody asked for it" => "quelqu’un l’a demandé";

    journal_title: "Journal" => "Journal";
    journal_lead: "A journal row is open until its change is known to be on every database. Open rows are what a database that is out has missed; they are brought over when it returns." => "Une ligne de journal est ouverte tant que son changement n’est pas dans toutes les bases. Les lignes ouvertes sont ce qu’une base hors service a manqué ; elles sont reportées à son retour.";
    journal_side: "Database" => "Base";
    journal_state: "State" => "État";
    journal_none: "No open row: nothing is missing anywhere." => "Aucune ligne ouverte : il ne manque rien nulle part.";

    compare_title: "Compare" => "Comparer";
    compare_lead: "This command compares every row of every table on all databases, while work goes on, and says whether they are identical:" => "Cette commande compare chaque ligne de chaque table dans toutes les bases, pendant que le travail continue, et dit si elles sont identiques :";
    compare_codes: "It answers 0 when they are identical, 1 when a row differs (it lists which), 2 when a database could not be read." => "Elle répond 0 si elles sont identiques, 1 si une ligne diffère (elle dit laquelle), 2 si une base n’a pu être lue.";
    compare_json: "With --json a program can read the answer." => "Avec --json, un programme peut lire la réponse.";
}
}
