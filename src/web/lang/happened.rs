//! Texts of what has happened to the databases.

use super::texts;

texts! {
/// What has happened.
HappenedTexts {
    epoch: "Databases in use from now on: {0}." => "Bases utilisées désormais : {0}.";
    epoch_why: "Databases in use from now on: {0} ({1})." => "Bases utilisées désormais : {0} ({1}).";
    changed: "Going on with: {0} ({1})." => "Le travail continue avec : {0} ({1}).";
    accepting: "Changes are accepted." => "Les changements sont acceptés.";
    refusing: "Changes are refused: {0}." => "Les changements sont refusés : {0}.";
    on_trial: "Database {0} answers, but has come and gone lately; it must answer for {1} s before it is brought back." => "La base {0} répond, mais elle a disparu plusieurs fois récemment ; elle doit répondre pendant {1} s avant d’être reprise.";
    caught_up: "Database {0} is up to date (rows copied: {1}) and in use again." => "La base {0} est à jour (lignes reportées : {1}) et de nouveau utilisée.";
    aligned: "The return of database {0}, left unfinished by another instance, was finished." => "Le retour de la base {0}, laissé inachevé par une autre instance, est terminé.";
    rebuilt: "Database {0} was copied anew from {1}, rows: {2} ({3})." => "La base {0} a été recopiée depuis {1}, lignes : {2} ({3}).";
    swept: "Rows that were in one database only were brought together: {0}." => "Des lignes présentes dans une seule base ont été réunies : {0}.";
    failed: "{0} failed at database {1} ({2}). It is tried again soon." => "{0} : échec sur la base {1} ({2}). Nouvel essai bientôt.";
    panicked: "{0} was ended by an error in the program. It is tried again soon." => "{0} : arrêt sur une erreur du programme. Nouvel essai bientôt.";
    align: "Finishing the return of database {0}" => "Achèvement du retour de la base {0}";
    catch_up: "Catching up database {0}" => "Rattrapage de la base {0}";
    rebuild: "Rebuilding database {0}" => "Reconstruction de la base {0}";
    sweep: "Bringing databases together" => "Mise en accord des bases";
    not_readmitted: "Database {0} is up to date but cannot be used yet: {1}." => "La base {0} est à jour mais ne peut pas encore être utilisée : {1}.";
    not_rebuilt: "Database {0} is not rebuilt: {1}." => "La base {0} n’est pas reconstruite : {1}.";
    given_up: "More than {1} journal rows wait for database {0} (JOURNAL_MAX_ROWS): they are given up, and it will be rebuilt when it returns." => "Plus de {1} lignes de journal attendent la base {0} (JOURNAL_MAX_ROWS) : elles sont abandonnées, et la base sera reconstruite à son retour.";
    conflicts: "Rows changed in database {1} and in database {2} at once: {0}. Those of {1} count; both are kept." => "Lignes modifiées à la fois dans la base {1} et dans la base {2} : {0}. Celles de {1} comptent ; les deux sont conservées.";
    conflicts_asked: "Rows changed in database {1} and in database {2} at once: {0}. Those of {1} count; both are kept. Waiting for your decision: {3}." => "Lignes modifiées à la fois dans la base {1} et dans la base {2} : {0}. Celles de {1} comptent ; les deux sont conservées. En attente de votre décision : {3}.";
    held_row: "Row {0} of {1} cannot be brought from database {2} to {3}: {4}. It is tried again soon." => "La ligne {0} de {1} ne peut pas être reportée de la base {2} vers {3} : {4}. Nouvel essai bientôt.";
    held_table: "Changes of table {0} cannot be brought from database {1} to {2}: {3}. They are tried again soon." => "Des changements de la table {0} ne peuvent pas être reportés de la base {1} vers {2} : {3}. Nouvel essai bientôt.";
    differing: "Rows that differ without a change that explains it: {0}. The first: {1}. See Compare." => "Lignes qui diffèrent sans qu’aucun changement l’explique : {0}. La première : {1}. Voir Comparer.";
    role_missing: "Role {0} does not exist in database {1}; it is not given its privileges there." => "Le rôle {0} n’existe pas dans la base {1} ; ses droits n’y sont pas accordés.";
    structure_read: "The structure of the tables was read anew." => "La structure des tables a été relue.";
    voter_forgot: "{0} has lost its memory of votes; it votes again from epoch {1}." => "{0} a perdu la mémoire de ses votes ; il vote de nouveau à partir de l’époque {1}.";
    no_memory: "The epoch cannot be kept on this instance’s disk: {0}." => "L’époque ne peut pas être gardée sur le disque de cette instance : {0}.";
    restarted: "Task {0} met an error in the program and was started anew; what it was doing will be finished automatically." => "La tâche {0} a rencontré une erreur du programme et a été relancée ; ce qu’elle faisait sera terminé automatiquement.";

    and: "; " => " ; ";
    why_installed: "beginning" => "début";
    why_fault: "database {0} {1}" => "la base {0} {1}";
    why_readmitted: "database {0} is up to date again" => "la base {0} est de nouveau à jour";
    why_unfinished: "the return of database {0} was not finished" => "le retour de la base {0} n’était pas terminé";
    why_finished: "a return was finished" => "un retour a été terminé";
    why_catching_up: "a database is catching up" => "une base rattrape son retard";
    why_rebuilding: "a database is being rebuilt" => "une base est en reconstruction";
    why_forgot: "a voter had lost its memory" => "un votant avait perdu la mémoire";
}
}
