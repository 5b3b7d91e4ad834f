-- Which job of a run opened an attempt, so that another job of the same run is told apart. Null where the
-- job did not say, and in all rows of before.

alter table attempts add column job text;
comment on column attempts.job is 'The job of the run that opened the attempt, in its own words; null: it did not say.';
