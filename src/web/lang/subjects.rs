//! Texts that name a subject: the items and the servers have the same keys.

use super::Lang;

macro_rules! subjects {
    ($($key:ident: $items_en:literal => $items_fr:literal, $servers_en:literal => $servers_fr:literal;)*) => {
        /// What the pages of one subject (items or servers) call it.
        #[derive(Debug)]
        pub struct SubjectTexts {
            $(#[doc = $items_en] pub $key: &'static str,)*
        }

        impl SubjectTexts {
            const ITEMS_EN: SubjectTexts = SubjectTexts { $($key: $items_en,)* };
            const ITEMS_FR: SubjectTexts = SubjectTexts { $($key: $items_fr,)* };
            const SERVERS_EN: SubjectTexts = SubjectTexts { $($key: $servers_en,)* };
            const SERVERS_FR: SubjectTexts = SubjectTexts { $($key: $servers_fr,)* };

            /// Every key with its English and its French text.
            #[cfg(test)]
            pub(crate) fn all() -> Vec<(&'static str, &'static str, &'static str)> {
                vec![$(
                    (stringify!($key), $items_en, $items_fr),
                    (stringify!($key), $servers_en, $servers_fr),
                )*]
            }
        }
    };
}

subjects! {
    plural: "Items" => "Éléments", "Servers" => "Serveurs";
    lead: "Every change is saved on all databases or on none." => "Chaque changement est enregistré dans toutes les bases ou dans aucune.",
          "Servers you keep an eye on." => "Les serveurs que vous suivez.";
    singular: "Item {0}" => "Élément {0}", "Server {0}" => "Serveur {0}";
    search: "Search in items" => "Chercher dans les éléments", "Search in servers" => "Chercher dans les serveurs";
    new: "New item" => "Nouvel élément", "New server" => "Nouveau serveur";
    edit: "Edit item {0}" => "Modifier l’élément {0}", "Edit server {0}" => "Modifier le serveur {0}";
    delete: "Delete item {0}?" => "Supprimer l’élément {0} ?", "Delete server {0}?" => "Supprimer le serveur {0} ?";
    import: "Import items" => "Importer des éléments", "Import servers" => "Importer des serveurs";
    empty: "No item yet." => "Aucun élément pour l’instant.", "No server yet." => "Aucun serveur pour l’instant.";
    gone: "Item {0} does not exist" => "L’élément {0} n’existe pas", "Server {0} does not exist" => "Le serveur {0} n’existe pas";
    conflict: "Somebody else changed item {0} in the meantime" => "Quelqu’un d’autre a modifié l’élément {0} entre-temps",
              "Somebody else changed server {0} in the meantime" => "Quelqu’un d’autre a modifié le serveur {0} entre-temps";
    flash_created: "Item {0} is saved." => "L’élément {0} est enregistré.", "Server {0} is saved." => "Le serveur {0} est enregistré.";
    flash_updated: "Item {0} is changed." => "L’élément {0} est modifié.", "Server {0} is changed." => "Le serveur {0} est modifié.";
    flash_deleted: "Item {0} is deleted." => "L’élément {0} est supprimé.", "Server {0} is deleted." => "Le serveur {0} est supprimé.";
    flash_activated: "Item {0} is active." => "L’élément {0} est actif.", "Server {0} is active." => "Le serveur {0} est actif.";
    flash_deactivated: "Item {0} is inactive." => "L’élément {0} est inactif.", "Server {0} is inactive." => "Le serveur {0} est inactif.";
}

impl SubjectTexts {
    /// The items' texts.
    pub fn items(lang: Lang) -> &'static SubjectTexts {
        match lang {
            Lang::En => &SubjectTexts::ITEMS_EN,
            Lang::Fr => &SubjectTexts::ITEMS_FR,
        }
    }

    /// The servers' texts.
    pub fn servers(lang: Lang) -> &'static SubjectTexts {
        match lang {
            Lang::En => &SubjectTexts::SERVERS_EN,
            Lang::Fr => &SubjectTexts::SERVERS_FR,
        }
    }
}
