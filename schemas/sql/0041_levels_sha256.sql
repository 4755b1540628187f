-- What a copy of a file of levels is compared with, as that of the points always was.

alter table projection.segment add column levels_sha256 text;
