//! One spelling for the API and the database.

/// The spelling that the API and the database share, for enums that derive serde.
macro_rules! spelled_by_serde {
    ($($type:ty),+) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.serialize(f)
            }
        }

        impl std::str::FromStr for $type {
            type Err = serde::de::value::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                use serde::de::IntoDeserializer;
                Self::deserialize(text.into_deserializer())
            }
        }
    )+};
}
pub(crate) use spelled_by_serde;
