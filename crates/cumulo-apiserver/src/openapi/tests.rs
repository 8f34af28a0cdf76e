use serde_json::{Value, json};

use super::*;

fn crd() -> Value {
    json!({"spec": {
        "group": "cumulo.dev", "scope": "Namespaced",
        "names": {"plural": "datasets", "singular": "dataset", "kind": "Dataset", "listKind": "DatasetList"},
        "versions": [{"name": "v1alpha1", "served": true, "storage": true, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "description": "A table.", "properties": {
                "spec": {"type": "object", "properties": {"query": {"type": "string", "description": "One query."}}}}}}}],
    }})
}

#[test]
fn built_in_documents_are_whole() {
    for document in builtin_documents() {
        let json = builtin_document(document.path).expect("document");
        let parsed: Value = serde_json::from_slice(&json).expect("json");
        assert!(parsed["paths"].is_object(), "{}", document.path);
        assert!(
            parsed["components"]["schemas"]
                .as_object()
                .is_some_and(|s| s.len() > 5)
        );
    }
    assert!(builtin_document("apis/nothing/v1").is_none());
    let pods: Value =
        serde_json::from_slice(&builtin_document("api/v1").expect("core")).expect("json");
    let patch = &pods["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
    assert!(
        patch["requestBody"]["content"]
            .get("application/strategic-merge-patch+json")
            .is_some()
    );
    let containers =
        &pods["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
}

#[test]
fn the_index_names_every_document_once() {
    let custom = [("apis/cumulo.dev/v1alpha1".to_owned(), "AB".to_owned())];
    let index = index(&custom);
    let paths = index["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), builtin_documents().len() + 1);
    assert_eq!(
        paths["apis/cumulo.dev/v1alpha1"],
        json!({"serverRelativeURL": "/openapi/v3/apis/cumulo.dev/v1alpha1?hash=AB"})
    );
    let core = paths["api/v1"]["serverRelativeURL"].as_str().expect("url");
    assert_eq!(
        core,
        format!(
            "/openapi/v3/api/v1?hash={}",
            builtin_hash("api/v1").expect("hash")
        )
    );
}

#[test]
fn a_custom_resource_gets_the_usual_paths() {
    let crd = crd();
    let document = crd_document("cumulo.dev", "v1alpha1", &[&crd]);
    let mut lines = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("item") {
            if let Some(id) = operation["operationId"].as_str() {
                lines.push(format!(
                    "{method} {path} {} {id}",
                    operation["x-kubernetes-action"]
                        .as_str()
                        .unwrap_or_default()
                ));
            }
        }
    }
    insta::assert_snapshot!(lines.join("\n"), @r#"
    get /apis/cumulo.dev/v1alpha1/datasets list listCumuloDevV1alpha1DatasetForAllNamespaces
    get /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets list listCumuloDevV1alpha1NamespacedDataset
    post /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets post createCumuloDevV1alpha1NamespacedDataset
    delete /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets deletecollection deleteCollectionCumuloDevV1alpha1NamespacedDataset
    get /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets/{name} get readCumuloDevV1alpha1NamespacedDataset
    put /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets/{name} put replaceCumuloDevV1alpha1NamespacedDataset
    patch /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets/{name} patch patchCumuloDevV1alpha1NamespacedDataset
    delete /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets/{name} delete deleteCumuloDevV1alpha1NamespacedDataset
    get /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets/{name}/status get readCumuloDevV1alpha1NamespacedDatasetStatus
    put /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets/{name}/status put replaceCumuloDevV1alpha1NamespacedDatasetStatus
    patch /apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets/{name}/status patch patchCumuloDevV1alpha1NamespacedDatasetStatus
    "#);
    let schema = &document["components"]["schemas"]["dev.cumulo.v1alpha1.Dataset"];
    assert_eq!(
        schema["x-kubernetes-group-version-kind"],
        json!([{"group": "cumulo.dev", "version": "v1alpha1", "kind": "Dataset"}])
    );
    assert_eq!(
        schema["properties"]["spec"]["properties"]["query"]["description"],
        "One query."
    );
    let patch = &document["paths"]["/apis/cumulo.dev/v1alpha1/namespaces/{namespace}/datasets/{name}"]
        ["patch"];
    assert!(
        patch["parameters"]
            .as_array()
            .expect("parameters")
            .iter()
            .any(|p| p["name"] == "fieldValidation")
    );
    assert!(
        patch["requestBody"]["content"]
            .get("application/strategic-merge-patch+json")
            .is_none()
    );
    assert_eq!(
        crd_document("other.dev", "v1alpha1", &[&crd])["paths"],
        json!({})
    );
}

/// Every reference in a generated document leads somewhere.
#[test]
fn references_resolve() {
    fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|child| walk(child, found));
            }
            Value::Array(items) => items.iter().for_each(|child| walk(child, found)),
            _ => {}
        }
    }
    let document = crd_document("cumulo.dev", "v1alpha1", &[&crd()]);
    let mut references = Vec::new();
    walk(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let name = reference
            .strip_prefix("#/components/schemas/")
            .expect("local");
        assert!(
            document["components"]["schemas"].get(name).is_some(),
            "{reference}"
        );
    }
}
