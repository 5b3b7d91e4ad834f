//! The key of a GitHub App, made once for the process.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used
)]

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// The app's id.
pub const APP_ID: &str = "314159";

/// What PKCS #8 puts before the PKCS #1 of a key of 2048 bits.
const PKCS8_HEADER: usize = 26;

/// A key as PEM.
pub struct AppKey {
    /// In the form in which GitHub hands it out, PKCS #1.
    pub private: String,
    /// What is left with GitHub.
    pub public: String,
}

/// The process's key.
pub static APP_KEY: LazyLock<AppKey> = LazyLock::new(|| {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    AppKey {
        private: pem("RSA PRIVATE KEY", &pkcs1(&pair)),
        public: pem("PUBLIC KEY", public.as_ref()),
    }
});

/// A fresh private key, as PKCS #1.
pub fn rsa_key() -> Vec<u8> {
    pkcs1(&KeyPair::generate(KeySize::Rsa2048).unwrap())
}

fn pkcs1(pair: &KeyPair) -> Vec<u8> {
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    private.as_ref()[PKCS8_HEADER..].to_vec()
}

fn pem(what: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {what}-----\n");
    for line in BASE64_STANDARD.encode(der).as_bytes().chunks(64) {
        text.push_str(std::str::from_utf8(line).unwrap());
        text.push('\n');
    }
    text + &format!("-----END {what}-----\n")
}
