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
    votes: "Votes" => "Votes";
    votes_lead: "A database is left out or taken back only if more than half of all votes agree ({1} of {2}). {0} can be had now." => "Une base n’est écartée ou reprise que si plus de la moitié des votes l’accepte ({1} sur {2}). On peut en avoir {0} maintenant.";
    votes_alone: "This instance is the only one; it decides by itself." => "Cette instance est la seule ; elle décide elle-même.";
    voter: "Voter" => "Votant";
    voter_instance: "Instance {0}" => "Instance {0}";
    voter_witness: "Witness {0}" => "Témoin {0}";
    voter_weight: "Votes" => "Voix";
    voter_state: "State" => "État";
    voter_since: "Since" => "Depuis";
    voter_votes: "votes" => "vote";
    margin_safe: "Any single further failure is survived." => "N’importe quelle panne de plus est supportée.";
    margin_last_copy: "One more failure stops changes: the loss of database {0}, the only one in use." => "Une panne de plus arrête les changements : la perte de la base {0}, la seule en service.";
    margin_too_few: "One more failure stops changes: the loss of database {0} would leave too few votes to go on without it." => "Une panne de plus arrête les changements : la perte de la base {0} laisserait trop peu de votes pour continuer sans elle.";
    margin_last_instance: "No other instance answers: without this one nobody serves." => "Aucune autre instance ne répond : sans celle-ci, personne ne sert.";
    events: "What happened" => "Ce qui s’est passé";
    no_events: "Nothing since this instance started." => "Rien depuis le démarrage de cette instance.";
    journal_link: "Journal" => "Journal";
    compare_link: "Compare" => "Comparer";

    fault_down: "does not answer: {0}" => "ne répond pas : {0}";
    fault_silent: "accepts connections but does not answer (frozen or unreachable)" => "accepte les connexions mais ne répond pas (gelée ou injoignable)";
    fault_refused: "refuses us: {0}" => "nous refuse : {0}";
    fault_unfit: "cannot be used: {0}" => "ne peut pas être utilisée : {0}";
    fault_behind: "answers again, waits to be caught up" => "répond de nouveau, attend d’être remise à jour";

    fault_lost: "has to be rebuilt from a living database: {0}" => "doit être reconstruite depuis une base vivante : {0}";
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

    conflicts_title: "Conflicts" => "Conflits";
    conflicts_lead: "Rows that were changed in two databases at once, by programs that know only one of them. One version is in effect everywhere; both are kept." => "Des lignes modifiées dans deux bases à la fois, par des programmes qui n’en connaissent qu’une. Une version compte partout ; les deux sont conservées.";
    conflicts_none: "There is no conflict." => "Il n’y a aucun conflit.";
    conflicts_count: "Conflicts to decide: {0}. Changes refused by a database: {1}." => "Conflits à décider : {0}. Changements refusés par une base : {1}.";
    conflict_id: "Conflict" => "Conflit";
    conflict_row: "Row" => "Ligne";
    conflict_sides: "In effect / gave way" => "Compte / a cédé";
    conflict_at: "Found" => "Trouvé";
    conflict_column: "Column" => "Colonne";
    conflict_whole_table: "{0} (whole table)" => "{0} (toute la table)";
    conflict_no_row: "There is no such row." => "Cette ligne n’existe pas.";
    conflict_in_effect: "In effect, from {0}" => "Compte, venue de {0}";
    conflict_gave_way: "Gave way, from {0}" => "A cédé, venue de {0}";
    conflict_open: "to decide" => "à décider";
    conflict_rule: "decided by the table’s rule" => "décidé par la règle de la table";
    conflict_kept: "confirmed" => "confirmé";
    conflict_lost: "the other version was chosen" => "l’autre version a été choisie";
    conflict_dismissed: "dismissed" => "écarté";
    conflict_choose_kept: "Confirm what is in effect" => "Confirmer la version qui compte";
    conflict_choose_lost: "Put the other version in effect" => "Choisir l’autre version";
    conflict_dismiss: "Dismiss" => "Écarter";
    conflict_done_written: "The other version is in effect in every database." => "L’autre version compte maintenant dans toutes les bases.";
    conflict_done_already: "The other version was in effect already." => "L’autre version comptait déjà.";
    conflict_done_noted: "Noted." => "C’est noté.";
    conflict_changed: "Nothing was written: the row was changed after this conflict was kept. Look at it and edit it." => "Rien n’a été écrit : la ligne a été modifiée après ce conflit. Regardez-la et modifiez-la.";
    held_title: "Refused by a database" => "Refusés par une base";
    held_lead: "These changes are in one database and cannot be brought to the other. They are tried again by themselves; everything else goes on." => "Ces changements sont dans une base et ne peuvent pas être reportés dans l’autre. Ils sont réessayés automatiquement ; tout le reste continue.";
    held_row: "{0}, from {1} to {2}" => "{0}, de {1} vers {2}";

    certificate_none: "No background comparison has finished yet." => "Aucune comparaison en arrière-plan n’est encore terminée.";
    certificate_identical: "Every row was identical in all databases." => "Chaque ligne était identique dans toutes les bases.";
    certificate_waiting: "No difference, but {0} rows were still on their way." => "Aucune différence, mais {0} lignes étaient encore en route.";
    certificate_differing: "{0} rows differ, and no change explains it. Nothing was overwritten." => "{0} lignes diffèrent sans qu’aucun changement l’explique. Rien n’a été écrasé.";
    certificate_at: "Compared" => "Comparées";
    certificate_rows: "Rows" => "Lignes";
    certificate_of_tables: "{0} in {1} tables" => "{0} dans {1} tables";
    certificate_digest: "Digest" => "Empreinte";
    certificate_pause: "Longest wait of a change" => "Plus longue attente d’un changement";

    compare_title: "Compare" => "Comparer";
    compare_lead: "This command compares every row of every table on all databases, while work goes on, and says whether they are identical:" => "Cette commande compare chaque ligne de chaque table dans toutes les bases, pendant que le travail continue, et dit si elles sont identiques :";
    compare_codes: "It answers 0 when they are identical, 1 when a row differs (it lists which), 2 when a database could not be read." => "Elle répond 0 si elles sont identiques, 1 si une ligne diffère (elle dit laquelle), 2 si une base n’a pu être lue.";
    compare_json: "With --json a program can read the answer." => "Avec --json, un programme peut lire la réponse.";
}
}
