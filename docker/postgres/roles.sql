-- The roles of the rig, once, before grants.sql. The application is `demo`, as in `causeway demo`.
CREATE ROLE causeway LOGIN PASSWORD :'monitor';
CREATE ROLE replicator LOGIN REPLICATION PASSWORD :'replication';
CREATE ROLE demo LOGIN PASSWORD 'demo';
CREATE DATABASE demo OWNER demo;
