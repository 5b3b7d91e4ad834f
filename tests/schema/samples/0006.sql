-- An index holds nothing of its own.
select;
