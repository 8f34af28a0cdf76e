-- "Is there a version of this training already?" is asked before each training.
CREATE INDEX model_version_tags_train_key ON model_version_tags /*hash*/ (value)
    WHERE key = 'cumulo.trainKey';
