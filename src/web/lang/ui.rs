//! Texts of the frame, the lists, the forms, the import and the session page.

use super::texts;

texts! {
/// Frame, lists and forms.
UiTexts {
    skip: "Skip to the content" => "Aller au contenu";
    navigation: "Pages" => "Pages";
    nav_session: "Session" => "Session";
    nav_cluster: "Cluster" => "Grappe";
    language: "Language" => "Langue";
    pair_label: "State of the databases: {0}" => "État des bases : {0}";
    instance: "Answered by {0}" => "Réponse de {0}";
    database: "read from database {0}" => "lu dans la base {0}";
    no_database: "no database answers" => "aucune base ne répond";
    epoch: "epoch {0}" => "époque {0}";
    twins: "Kambana: two databases, one content" => "Kambana : deux bases, un seul contenu";
    banner_out: "Database {0} is out. Your work goes on: changes are saved on {1}, and {0} will be brought up to date by itself when it returns." => "La base {0} est hors service. Le travail continue : les changements sont enregistrés sur {1}, et {0} sera remise à jour d’elle-même à son retour.";
    banner_rebuilding: "Database {0} was lost and is being copied from {1}. You can go on working." => "La base {0} était perdue et est recopiée depuis {1}. Vous pouvez continuer à travailler.";
    banner_catching: "Database {0} is back and is being brought up to date. You can go on working." => "La base {0} est revenue et se remet à jour. Vous pouvez continuer à travailler.";
    banner_refused: "Changes are refused at the moment: {0}. What is saved stays safe." => "Les changements sont refusés pour l’instant : {0}. Ce qui est enregistré reste en sûreté.";
    banner_more: "See the databases" => "Voir les bases";

    search: "Search" => "Chercher";
    search_clear: "Show all" => "Tout afficher";
    rows_one: "1 row" => "1 ligne";
    rows_many: "{0} rows" => "{0} lignes";
    rows_about: "about {0} rows" => "environ {0} lignes";
    rows_more: "more than {0} rows" => "plus de {0} lignes";
    pager: "Pages of the list" => "Pages de la liste";
    previous: "Previous" => "Précédent";
    next: "Next" => "Suivant";
    sorted_ascending: "sorted ascending" => "tri croissant";
    sorted_descending: "sorted descending" => "tri décroissant";
    empty_search: "Nothing contains “{0}”." => "Rien ne contient « {0} ».";
    actions: "Actions" => "Actions";
    export_csv: "Export CSV" => "Exporter en CSV";
    import_csv: "Import CSV" => "Importer un CSV";

    save: "Save" => "Enregistrer";
    edit: "Edit" => "Modifier";
    delete: "Delete" => "Supprimer";
    cancel: "Cancel" => "Annuler";
    back_to_list: "Back to the list" => "Retour à la liste";
    yes: "yes" => "oui";
    no: "no" => "non";
    not_set: "not set" => "non renseigné";
    required: "required" => "obligatoire";
    errors_above: "Nothing was saved yet: please look at the marked fields." => "Rien n’est encore enregistré : merci de revoir les champs signalés.";
    delete_warning: "It will be deleted from every database. This cannot be undone." => "La suppression aura lieu dans toutes les bases. Elle est définitive.";
    delete_yes: "Yes, delete" => "Oui, supprimer";

    field_id: "No." => "N°";
    field_name: "Name" => "Nom";
    field_content: "Content" => "Contenu";
    field_updated_at: "Changed" => "Modifié";
    field_host: "Host" => "Hôte";
    field_port: "Port" => "Port";
    field_active: "Active" => "Actif";
    field_created_at: "Created" => "Créé";
    hint_name: "Any script, up to {0} characters." => "Toute écriture, {0} caractères au plus.";
    hint_host: "A host name or an address." => "Un nom d’hôte ou une adresse.";
    hint_port: "A number from 1 to 65535." => "Un nombre de 1 à 65535.";
    active_yes: "active" => "actif";
    active_no: "inactive" => "inactif";
    switch_of: "{0}: active" => "{0} : actif";

    import_file: "CSV file" => "Fichier CSV";
    import_hint: "UTF-8, with a header line that names the columns: {0}. At most {1} MB. The other columns of an export are left out." => "En UTF-8, avec une ligne d’en-tête qui nomme les colonnes : {0}. {1} Mo au plus. Les autres colonnes d’un export sont laissées de côté.";
    import_all_or_report: "The file is checked first. If one row cannot be taken, nothing is imported and you see which rows and why." => "Le fichier est d’abord vérifié. Si une seule ligne est refusée, rien n’est importé et vous voyez lesquelles et pourquoi.";
    import_start: "Import" => "Importer";
    import_running: "Importing {0} rows" => "Importation de {0} lignes";
    import_progress: "{0} of {1} rows are saved on every active database." => "{0} lignes sur {1} sont enregistrées dans chaque base active.";
    import_safe_to_leave: "You may leave this page: the import goes on. This address shows its progress, through whichever instance." => "Vous pouvez quitter cette page : l’importation continue. Cette adresse montre son avancement, quelle que soit l’instance.";
    import_done: "The import is complete" => "L’importation est terminée";
    import_done_rows: "All {0} rows are saved." => "Les {0} lignes sont enregistrées.";
    import_stalled: "Nothing has moved for a while. Perhaps the instance that imported was stopped. Send the same file again here to continue: rows that are in already are recognised, none is imported twice." => "Plus rien n’avance depuis un moment. L’instance qui importait a peut-être été arrêtée. Renvoyez ici le même fichier pour continuer : les lignes déjà présentes sont reconnues, aucune n’est importée deux fois.";
    import_failed: "The import stopped" => "L’importation s’est arrêtée";
    import_failed_more: "Rows saved before stay saved. Send the same file again to continue: rows that are in already are recognised." => "Les lignes déjà enregistrées le restent. Renvoyez le même fichier pour continuer : les lignes déjà présentes sont reconnues.";
    import_continue: "Continue the import" => "Continuer l’importation";
    import_refused: "Nothing was imported" => "Rien n’a été importé";
    import_refused_many: "{0} of {1} rows cannot be taken. Correct the file and send it again." => "{0} lignes sur {1} sont refusées. Corrigez le fichier et renvoyez-le.";
    import_refused_one: "One row cannot be taken. Correct the file and send it again." => "Une ligne est refusée. Corrigez le fichier et renvoyez-le.";
    import_more: "Only the first {0} of them are shown." => "Seules les {0} premières sont affichées.";
    import_row: "Line" => "Ligne";
    import_column: "Column" => "Colonne";
    import_reason: "Reason" => "Raison";

    session_title: "Your session" => "Votre session";
    session_lead: "It is kept in both databases. Any instance can answer you, and any database can fail." => "Elle est gardée dans les deux bases. N’importe quelle instance peut vous répondre, n’importe quelle base peut tomber.";
    session_id: "Session" => "Session";
    session_none: "none yet; it begins with the first value you save" => "aucune pour l’instant ; elle commence avec la première valeur enregistrée";
    session_instance: "Instance that answered" => "Instance qui a répondu";
    session_database: "Database that was read" => "Base qui a été lue";
    session_values: "What is in it" => "Ce qu’elle contient";
    session_empty: "Nothing yet. Save a value, then stop a database or an instance: it is still here." => "Rien encore. Enregistrez une valeur, puis arrêtez une base ou une instance : elle est toujours là.";
    session_key: "Name" => "Nom";
    session_value: "Value" => "Valeur";
    session_set: "Save a value" => "Enregistrer une valeur";
    session_remove: "Remove" => "Retirer";
    session_remove_key: "Remove {0}" => "Retirer {0}";
    session_destroy: "Destroy the session" => "Détruire la session";
    session_destroy_hint: "Every value in it is forgotten, in all databases." => "Toutes ses valeurs sont oubliées, dans toutes les bases.";

    flash_value_saved: "“{0}” is saved in your session." => "« {0} » est enregistré dans votre session.";
    flash_value_removed: "“{0}” was removed from your session." => "« {0} » a été retiré de votre session.";
    flash_session_destroyed: "Your session was destroyed." => "Votre session a été détruite.";
}
}
