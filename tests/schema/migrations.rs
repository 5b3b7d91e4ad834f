//! Every migration runs over data, and leaves nothing undescribed.

use backstop::store;
use sqlx::migrate::Migrate;
use sqlx::{ConnectOptions, Connection, Row};

use crate::harness::empty_database;

/// What a database that has every migration up to `version` may hold.
fn sample(version: i64) -> Option<&'static str> {
    match version {
        1 => Some(include_str!("samples/0001.sql")),
        2 => Some(include_str!("samples/0002.sql")),
        3 => Some(include_str!("samples/0003.sql")),
        4 => Some(include_str!("samples/0004.sql")),
        5 => Some(include_str!("samples/0005.sql")),
        6 => Some(include_str!("samples/0006.sql")),
        7 => Some(include_str!("samples/0007.sql")),
        8 => Some(include_str!("samples/0008.sql")),
        9 => Some(include_str!("samples/0009.sql")),
        10 => Some(include_str!("samples/0010.sql")),
        11 => Some(include_str!("samples/0011.sql")),
        _ => None,
    }
}

#[tokio::test]
async fn every_migration_runs_over_the_sample_of_the_one_before() {
    let mut db = empty_database().await.connect().await.unwrap();
    db.ensure_migrations_table("_sqlx_migrations")
        .await
        .unwrap();
    for migration in store::MIGRATIONS.iter() {
        db.apply("_sqlx_migrations", migration).await.unwrap();
        let sample = sample(migration.version)
            .unwrap_or_else(|| panic!("migration {} has no sample", migration.version));
        sqlx::raw_sql(sample).execute(&mut db).await.unwrap();
    }
    let provisions = count(&mut db, "select count(*) from provisions").await;
    let unsettled = count(
        &mut db,
        "select count(*) from steps where settled_at is null",
    )
    .await;
    assert_eq!((provisions, unsettled), (7, 2));
    // Attempt 0 of what a run has taken is over.
    let live = count(
        &mut db,
        "select count(*) from attempts where finished_at is null",
    )
    .await;
    assert_eq!(live, 3);
    db.close().await.unwrap();
}

#[tokio::test]
async fn migrating_twice_and_from_two_processes_at_once_is_harmless() {
    let options = empty_database().await;
    let (one, two) = (
        store::connect(options.clone(), 2).await.unwrap(),
        store::connect(options, 2).await.unwrap(),
    );
    let (first, second) = tokio::join!(store::migrate(&one), store::migrate(&two));
    first.unwrap();
    second.unwrap();
    store::migrate(&one).await.unwrap();
    assert!(store::is_ready(&two).await.unwrap());
}

#[tokio::test]
async fn a_database_without_migrations_is_not_ready() {
    let pool = store::connect(empty_database().await, 2).await.unwrap();
    assert!(store::is_ready(&pool).await.is_err());
}

#[tokio::test]
async fn every_table_column_and_function_is_described() {
    let mut db = crate::harness::database().await.connect().await.unwrap();
    let silent: Vec<String> = sqlx::query(
        "select c.relname || coalesce('.' || a.attname, '') as name
         from pg_class c
         left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v')
           and c.relname <> '_sqlx_migrations'
           and (col_description(c.oid, a.attnum) is null or obj_description(c.oid) is null)
         union all
         select p.proname::text from pg_proc p
         where p.pronamespace = 'public'::regnamespace and obj_description(p.oid) is null",
    )
    .fetch_all(&mut db)
    .await
    .unwrap()
    .iter()
    .map(|row| row.get("name"))
    .collect();
    assert_eq!(silent, Vec::<String>::new());
}

async fn count(db: &mut sqlx::PgConnection, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(db).await.unwrap()
}
