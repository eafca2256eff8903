//! Names, and where they stand in a list.

use std::collections::HashMap;

/// The place of each name in the list. One type of table for everything with a name: each other type would have all the code
/// of a table for itself, 2 KB.
pub(crate) fn places<'a>(names: impl Iterator<Item = &'a str>) -> HashMap<&'a str, usize> {
    let mut places = HashMap::new();
    for (place, name) in names.enumerate() {
        places.insert(name, place);
    }
    places
}
