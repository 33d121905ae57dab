//! Texts of what can go wrong: what happened, what it means for the data, what to do.

use super::texts;

texts! {
/// What went wrong and what to do.
TroubleTexts {
    not_applied_title: "Your change was not saved" => "Votre changement n’est pas enregistré";
    not_applied_why: "Reason: {0}." => "Raison : {0}.";
    not_applied_means: "It is on no database; nothing else was touched. What you typed is kept on this page." => "Il n’est dans aucune base ; rien d’autre n’a été touché. Ce que vous avez saisi est gardé sur cette page.";
    not_applied_do: "Send it again in a moment. Sending it twice does no harm: it is applied once." => "Renvoyez-le dans un instant. L’envoyer deux fois ne fait aucun mal : il n’est appliqué qu’une fois.";
    send_again: "Send again" => "Envoyer de nouveau";
    what_you_typed: "What you typed" => "Ce que vous avez saisi";

    overloaded: "too many changes are waiting" => "trop de changements sont en attente";
    no_side: "no database answers" => "aucune base ne répond";
    no_authority: "database {0} answers, but it was out when the last change was made; waiting for the one that has it" => "la base {0} répond, mais elle était hors service lors du dernier changement ; attente de celle qui l’a";
    isolated: "this instance cannot reach database {0}, but the other instance can; it takes no part until it can again" => "cette instance n’atteint pas la base {0}, mais l’autre instance l’atteint ; elle ne participe plus tant que cela dure";
    unable: "database {0} does not take this change, and no other is active: {1}" => "la base {0} n’accepte pas cette modification, et aucune autre n’est active : {1}";
    no_votes: "a database is missing, and more than half of the votes must agree to go on without it: {0} of {1} came. Missing: {2}. Bring one of these back; nothing acknowledged is lost" => "une base manque, et plus de la moitié des votes doivent accepter de continuer sans elle : {0} sur {1} sont venus. Manquent : {2}. Ramenez l’un d’eux ; rien de ce qui a été confirmé n’est perdu";
    decided_for: "the votes have decided to go on with the databases {0}, which this instance does not reach" => "les votes ont décidé de continuer avec les bases {0}, que cette instance n’atteint pas";
    no_memory: "this instance’s own record of the active databases cannot be read: {0}" => "le registre des bases actives tenu par cette instance est illisible : {0}";
    split: "the databases were made active apart from each other and may both have changes; a person must decide" => "les bases ont été activées séparément et peuvent avoir chacune des changements ; une personne doit décider";
    held: "a change of this row that another program made in one database is refused by the other (see conflicts)" => "une modification de cette ligne, faite par un autre programme dans une base, est refusée par l’autre (voir les conflits)";
    locked: "another program holds a lock on this data" => "un autre programme verrouille ces données";
    deadline: "the databases did not answer in time" => "les bases n’ont pas répondu à temps";
    closing: "this instance is stopping" => "cette instance s’arrête";

    abandoned: "an earlier attempt with this form was given up for good" => "une tentative précédente avec ce formulaire a été abandonnée pour de bon";

    unknown_title: "Your change is being settled" => "Votre changement est en cours de confirmation";
    unknown_why: "The answer of a database was lost at the moment of saving, so it is not known yet whether your change is in." => "La réponse d’une base s’est perdue au moment d’enregistrer ; on ne sait pas encore si votre changement est fait.";
    unknown_means: "It will become certain by itself: saved on every database or on none. Do not type it again; this page looks again by itself." => "La réponse viendra d’elle-même : enregistré dans toutes les bases ou dans aucune. Ne le saisissez pas de nouveau ; cette page vérifie seule.";
    look_again: "Look again" => "Vérifier maintenant";
    op_id: "Operation" => "Opération";
    op_applied_title: "Your change is saved" => "Votre changement est enregistré";
    op_applied: "It is on every active database." => "Il est dans chaque base active.";
    op_not_applied: "It is on no database and never will be under this operation. You can make it again." => "Il n’est dans aucune base et ne le sera jamais sous cette opération. Vous pouvez le refaire.";
    op_unseen_title: "No database knows this operation" => "Aucune base ne connaît cette opération";
    op_unseen: "Nothing was changed by it, or it was so long ago that its outcome is no longer kept." => "Elle n’a rien changé, ou elle est si ancienne que son résultat n’est plus gardé.";
    op_bad: "This is not the name of an operation." => "Ce n’est pas le nom d’une opération.";

    reused_title: "This form was already sent" => "Ce formulaire a déjà été envoyé";
    reused_why: "It was sent before with other values, and that first change is saved. This one was not saved, so that nothing happens twice." => "Il a été envoyé auparavant avec d’autres valeurs, et ce premier changement est enregistré. Celui-ci ne l’est pas, pour que rien n’arrive deux fois.";
    reused_link: "See the current state" => "Voir l’état actuel";
    reused_do: "Look at the current state, then change it if you still want to." => "Regardez l’état actuel, puis modifiez-le si vous le voulez encore.";

    rejected_title: "The database did not accept this" => "La base n’a pas accepté ces valeurs";
    rejected_why: "It said: {0}" => "Elle a répondu : {0}";
    fault: "The program or the database schema is at fault, not what you typed. The log of this instance has the reason." => "Le programme ou le schéma de la base est en faute, pas votre saisie. Le journal de cette instance en donne la raison.";
    rejected_means: "Nothing was changed on any database." => "Rien n’a changé dans aucune base.";

    read_title: "This cannot be shown right now" => "Impossible d’afficher cela pour l’instant";
    read_means: "No database could answer. What is saved stays safe; only showing it has to wait." => "Aucune base n’a pu répondre. Ce qui est enregistré reste en sûreté ; seul l’affichage doit attendre.";
    read_do: "This page tries again by itself." => "Cette page réessaie d’elle-même.";
    read_rejected: "The database did not understand the question. This is a fault of the application; the log of this instance names it." => "La base n’a pas compris la demande. C’est un défaut de l’application ; le journal de cette instance le nomme.";
    too_long_title: "This search takes too long" => "Cette recherche est trop longue";
    too_long: "The database looked through the rows for a few seconds and was stopped, so that others need not wait. Nothing is wrong with what is saved." => "La base a parcouru les lignes pendant quelques secondes puis a été arrêtée, pour que d’autres n’attendent pas. Rien de ce qui est enregistré n’est touché.";
    too_long_do: "A text that many rows contain is found sooner, and so is a list in the order of its numbers." => "Un texte présent dans beaucoup de lignes se trouve plus vite, de même qu’une liste dans l’ordre des numéros.";
    try_again: "Try again" => "Réessayer";

    not_found_title: "This page does not exist" => "Cette page n’existe pas";
    not_found: "The address is wrong, or what it showed was deleted." => "L’adresse est fausse, ou ce qu’elle montrait a été supprimé.";
    gone: "Perhaps it was deleted in the meantime. Nothing was changed." => "Il a peut-être été supprimé entre-temps. Rien n’a été changé.";
    to_start: "To the start page" => "Vers la page d’accueil";
    method_title: "This address takes a form only" => "Cette adresse n’accepte qu’un formulaire";
    method: "Open the page and use its buttons. Nothing was changed." => "Ouvrez la page et utilisez ses boutons. Rien n’a été changé.";
    bad_request_title: "This request cannot be understood" => "Cette demande ne peut pas être comprise";
    bad_request: "A field is missing, twice there, or not text in UTF-8. Nothing was changed. Go back, load the page again and repeat." => "Un champ manque, figure deux fois ou n’est pas du texte en UTF-8. Rien n’a été changé. Revenez en arrière, rechargez la page et recommencez.";
    too_large_title: "This is too large" => "C’est trop volumineux";
    too_large: "At most {0} MB are accepted. Nothing was changed." => "{0} Mo au plus sont acceptés. Rien n’a été changé.";
    session_title: "Your session cannot be saved right now" => "Votre session ne peut pas être enregistrée pour l’instant";

    conflict_lead: "Nothing of yours is lost, and nothing of theirs was overwritten. Choose what shall stand." => "Rien de vous n’est perdu, et rien de l’autre n’a été écrasé. Choisissez ce qui doit rester.";
    conflict_was: "What it was" => "Ce que c’était";
    conflict_yours: "Yours" => "Le vôtre";
    conflict_theirs: "Theirs, saved now" => "L’autre, enregistré";
    conflict_compared: "Compared with what it was: added and removed text is marked." => "Par rapport à l’état initial : le texte ajouté et retiré est marqué.";
    conflict_keep_mine: "Keep mine" => "Garder le mien";
    conflict_take_theirs: "Take theirs" => "Prendre l’autre";
    conflict_merged: "Or edit and save both together" => "Ou réunir les deux";
    conflict_merged_hint: "Your changes and theirs, put together. Please read it before saving." => "Vos changements et les siens, réunis. Relisez avant d’enregistrer.";
    conflict_both: "You both changed the same lines; they stand between the marks <<<<<<< and >>>>>>>. Keep what is right and remove the marks." => "Vous avez tous deux modifié les mêmes lignes ; elles sont entre les marques <<<<<<< et >>>>>>>. Gardez ce qui est juste et retirez les marques.";
    conflict_save: "Save this" => "Enregistrer ceci";
    conflict_mark_yours: "yours" => "le vôtre";
    conflict_mark_theirs: "theirs" => "l’autre";
    conflict_delete: "You wanted to delete it, but somebody else changed it in the meantime. This is what it is now." => "Vous vouliez le supprimer, mais quelqu’un d’autre l’a modifié entre-temps. Voici son état actuel.";
    conflict_delete_anyway: "Delete it anyway" => "Supprimer quand même";
    conflict_keep: "Keep it" => "Le garder";

    error_required: "Please fill this in." => "Merci de remplir ce champ.";
    error_too_long: "This is too long: at most {0} characters." => "C’est trop long : {0} caractères au plus.";
    error_control: "This contains a character that cannot be stored (such as NUL)." => "Ce texte contient un caractère qui ne peut pas être enregistré (comme NUL).";
    error_not_a_number: "This is not a whole number." => "Ce n’est pas un nombre entier.";
    error_port: "A port is a number from 1 to 65535." => "Un port est un nombre de 1 à 65535.";
    error_host: "This is not a host name or an address." => "Ce n’est ni un nom d’hôte ni une adresse.";
    error_boolean: "This must be yes or no." => "Ce doit être oui ou non.";
    error_range: "This must be a number from {0} to {1}." => "Ce doit être un nombre de {0} à {1}.";
    error_duplicate: "This was given twice." => "Ceci figure deux fois.";
    error_session_name: "A name begins with a letter and contains no “|”." => "Un nom commence par une lettre et ne contient pas « | ».";
    error_other: "This value cannot be taken." => "Cette valeur ne peut pas être prise.";
    error_unknown_column: "The database has no such column." => "La base n’a pas cette colonne.";
    file_empty: "The file has no rows below a header line." => "Le fichier n’a aucune ligne sous un en-tête.";
    file_header_not_utf8: "The header line is not text in UTF-8." => "L’en-tête n’est pas du texte en UTF-8.";
    file_missing_column: "The header line has no column “{0}”." => "L’en-tête n’a pas de colonne « {0} ».";
    file_unknown_column: "The header line has a column “{0}” that nobody knows here." => "L’en-tête a une colonne « {0} » inconnue ici.";
    file_duplicate_column: "The header line has the column “{0}” twice." => "L’en-tête a deux fois la colonne « {0} ».";
    file_unterminated_quote: "Line {0}: a field begins with a quote that never ends." => "Ligne {0} : un champ commence par un guillemet qui ne se ferme jamais.";
    file_text_after_quote: "Line {0}: after the quote that ends a field there must be a comma or the end of the line." => "Ligne {0} : après le guillemet qui ferme un champ, il faut une virgule ou la fin de la ligne.";
    row_not_utf8: "This row is not text in UTF-8." => "Cette ligne n’est pas du texte en UTF-8.";
    row_field_count: "This row has {0} fields, the header has {1}." => "Cette ligne a {0} champs, l’en-tête en a {1}.";
    import_no_file: "Choose a file first." => "Choisissez d’abord un fichier.";
    import_too_large: "This file is larger than {0} MB." => "Ce fichier dépasse {0} Mo.";
}
}
