-- An attempt that a job opened which said which it is.
update attempts set job = 'provision' where number = 1;
