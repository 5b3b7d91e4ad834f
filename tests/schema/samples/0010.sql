-- Indexes hold nothing of their own.
select;
